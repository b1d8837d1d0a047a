//! Claims on the emulated database.

use scylla::client::session_builder::SessionBuilder;
use scylla_emulator::Emulator;

use super::*;

const KEYSPACE: &str = "outbox_relay";
const NAME: &str = "orders";

/// A process id that no process has.
const NOBODY: i32 = i32::MAX;

struct Base {
    emulator: Emulator,
    session: Arc<Session>,
}

impl Base {
    async fn start() -> Self {
        let emulator = Emulator::start().await.expect("the emulator starts");
        let create = format!(
            "CREATE KEYSPACE {KEYSPACE} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        );
        let tables = ddl(KEYSPACE).into_iter().map(|(_, cql)| cql);
        for statement in std::iter::once(create).chain(tables) {
            emulator.execute(&statement).expect("a statement");
        }
        let builder = SessionBuilder::new().known_node(emulator.address().to_string());
        let session = Arc::new(builder.build().await.expect("a session"));
        Self { emulator, session }
    }

    /// Another process that wants this name.
    async fn owner(&self, name: &str, role: Role) -> Ownership {
        let session = Arc::clone(&self.session);
        let owner = Ownership::new(session, KEYSPACE, name, role).await;
        owner.expect("its table is there")
    }

    async fn relay(&self) -> Ownership {
        self.owner(NAME, Role::Relay).await
    }

    /// Writes a holder as a process of this place and number would.
    async fn hold(&self, place: &str, pid: i32, started: i64) -> Holder {
        let holder = Holder {
            owner: Uuid::new_v4(),
            place: place.to_owned(),
            pid,
            started,
            role: "relay".to_owned(),
        };
        let insert = format!(
            "INSERT INTO {KEYSPACE}.owners (relay, owner, place, pid, started, role, since) \
             VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL {}",
            LEASE.as_secs()
        );
        let role = &holder.role;
        let values = (NAME, holder.owner, place, pid, started, role, now());
        let inserted = self.session.query_unpaged(insert, values).await;
        inserted.expect("a row");
        holder
    }

    /// Lets time pass in the database.
    fn pass(&self, time: Duration) {
        self.emulator.clock().advance(time);
    }
}

async fn claim(owner: &Ownership) -> Claim {
    owner.claim().await.expect("the database answers")
}

async fn release(owner: &Ownership) {
    owner.release().await.expect("the database answers");
}

fn here() -> String {
    place().expect("tests run on Linux")
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_second_process_gets_the_name_when_the_first_gives_it_up() {
    let base = Base::start().await;
    let (first, second) = (base.relay().await, base.relay().await);
    assert_eq!(claim(&first).await, Claim::Ours);
    assert_eq!(claim(&second).await, Claim::Held(first.me.clone()));
    // Who does not have it gives nothing up.
    release(&second).await;
    assert_eq!(claim(&second).await, Claim::Held(first.me.clone()));
    assert_eq!(claim(&first).await, Claim::Ours, "a claim is renewed");
    release(&first).await;
    assert_eq!(claim(&second).await, Claim::Ours);
    assert_eq!(claim(&first).await, Claim::Held(second.me.clone()));
}

#[tokio::test]
async fn names_are_owned_one_by_one_and_an_owner_is_told_apart() {
    let base = Base::start().await;
    let command = base.owner(NAME, Role::Command).await;
    let other = base.owner("payments", Role::Relay).await;
    assert_eq!(claim(&command).await, Claim::Ours);
    assert_eq!(claim(&other).await, Claim::Ours);
    let Claim::Held(holder) = claim(&base.relay().await).await else {
        panic!("a command holds the name");
    };
    assert!(!holder.is_relay(), "{holder}");
    let Claim::Held(holder) = claim(&base.owner("payments", Role::Command).await).await else {
        panic!("a relay holds the name");
    };
    assert!(holder.is_relay(), "{holder}");
}

#[tokio::test]
async fn the_name_of_a_process_of_this_host_that_is_gone_is_taken_at_once() {
    let base = Base::start().await;
    let owner = base.relay().await;
    let gone = base.hold(&here(), NOBODY, 1).await;
    assert_eq!(claim(&owner).await, Claim::Ours);
    // The number of a process may be used again by another one.
    let reused = base.hold(&here(), owner.me.pid, owner.me.started - 1).await;
    assert_ne!(gone.owner, reused.owner);
    assert_eq!(claim(&owner).await, Claim::Ours);
    let second = base.relay().await;
    assert_eq!(claim(&second).await, Claim::Held(owner.me.clone()));
}

#[tokio::test]
async fn the_name_of_a_process_elsewhere_is_taken_when_its_lease_has_ended() {
    let base = Base::start().await;
    let owner = base.relay().await;
    let elsewhere = base.hold("other-host boot pid:[1]", NOBODY, 1).await;
    base.pass(LEASE.saturating_sub(2 * SECOND));
    assert_eq!(
        claim(&owner).await,
        Claim::Held(elsewhere),
        "nobody here knows whether it is gone"
    );
    base.pass(3 * SECOND);
    assert_eq!(claim(&owner).await, Claim::Ours);
}

#[tokio::test]
async fn a_lease_ends_unless_it_is_renewed() {
    let base = Base::start().await;
    let (first, second) = (base.relay().await, base.relay().await);
    for _ in 0..5 {
        assert_eq!(claim(&first).await, Claim::Ours);
        base.pass(LEASE.saturating_sub(2 * SECOND));
        assert_eq!(claim(&second).await, Claim::Held(first.me.clone()));
    }
    base.pass(3 * SECOND);
    assert_eq!(claim(&second).await, Claim::Ours);
    assert_eq!(claim(&first).await, Claim::Held(second.me.clone()));
    // What it does not have any more, it does not take from its new owner.
    release(&first).await;
    assert_eq!(claim(&first).await, Claim::Held(second.me.clone()));
}

#[tokio::test]
async fn an_owner_whose_lease_has_ended_claims_the_name_again() {
    let base = Base::start().await;
    let owner = base.relay().await;
    for _ in 0..3 {
        assert_eq!(claim(&owner).await, Claim::Ours);
        base.pass(LEASE + SECOND);
    }
    let second = base.relay().await;
    assert_eq!(claim(&owner).await, Claim::Ours);
    assert_eq!(claim(&second).await, Claim::Held(owner.me.clone()));
    release(&owner).await;
    assert_eq!(claim(&owner).await, Claim::Ours, "also after a release");
}

#[tokio::test]
async fn of_many_that_claim_at_once_one_gets_the_name() {
    let base = Base::start().await;
    // Also when there is something to take over.
    for gone in [false, true] {
        let mut owners = Vec::new();
        for _ in 0..16 {
            owners.push(base.relay().await);
        }
        if gone {
            base.hold(&here(), NOBODY, 1).await;
        }
        let claims = futures::future::join_all(owners.iter().map(claim)).await;
        let ours = claims.iter().filter(|claim| **claim == Claim::Ours).count();
        assert_eq!(ours, 1, "{claims:#?}");
        let winner = claims.iter().position(|claim| *claim == Claim::Ours);
        let winner = &owners[winner.expect("one has it")];
        let lost = Claim::Held(winner.me.clone());
        for claim in claims.iter().filter(|claim| **claim != Claim::Ours) {
            // Who is beaten may have seen the one that was gone.
            assert!(*claim == lost, "{claim:?}");
        }
        release(winner).await;
    }
}

async fn renew(owner: &Ownership) -> Renewal {
    owner.renew().await.expect("an answer")
}

#[tokio::test]
async fn a_lapse_that_nobody_used_is_mended_and_one_that_was_used_is_not() {
    let base = Base::start().await;
    let (first, second) = (base.relay().await, base.relay().await);
    assert_eq!(claim(&first).await, Claim::Ours);
    assert_eq!(renew(&first).await, Renewal::Ours);
    base.pass(LEASE + SECOND);
    assert_eq!(
        renew(&first).await,
        Renewal::Ours,
        "nobody had it meanwhile"
    );
    base.pass(LEASE + SECOND);
    assert_eq!(claim(&second).await, Claim::Ours);
    assert_eq!(renew(&first).await, Renewal::Lost(Some(second.me.clone())));
    // The second one has gone as well: what the first one knows is out of date all the same.
    release(&second).await;
    assert_eq!(renew(&first).await, Renewal::Lost(None));
    let third = base.relay().await;
    assert_eq!(claim(&third).await, Claim::Ours, "it has not kept the name");
    assert_eq!(renew(&third).await, Renewal::Ours);
}

#[tokio::test]
async fn who_has_the_name_can_be_looked_at_without_claiming_it() {
    let base = Base::start().await;
    let look = async || {
        let owner = look::look(&base.session, KEYSPACE, NAME).await;
        owner.expect("an answer")
    };
    assert_eq!(look().await, None);
    let relay = base.relay().await;
    assert_eq!(claim(&relay).await, Claim::Ours);
    let owner = look().await.expect("an owner");
    let host = here();
    let host = host.split(' ').next().expect("a host");
    assert_eq!(
        (&*owner.role, &*owner.host, owner.pid),
        ("relay", host, relay.me.pid)
    );
    assert!(owner.since.is_some());
    assert_eq!(owner.until - owner.renewed, LEASE.as_millis() as i64);
    // It is still free to be renewed, and then its own.
    assert_eq!(renew(&relay).await, Renewal::Ours);
    let renewed = look().await.expect("an owner");
    assert_eq!(renewed.since, owner.since, "a renewal is no new claim");
    base.pass(LEASE + SECOND);
    assert_eq!(look().await, None);
}
