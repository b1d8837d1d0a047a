//! Outages of a genuine broker, and of the database: the five scenarios that the relay is made for,
//! and a broker that is killed again and again.

use crate::support::bench::{Bench, IN_FLIGHT, Setup};
use crate::support::database::Database;
use crate::support::proxy::Mode;
use crate::support::relay::{
    ATTEMPT_FAILED, BREAKER_MOVES, BREAKER_OPENS, DEAD_LETTER, RelayProcess,
};
use crate::support::seed::Seed;
use crate::support::traffic::{Plan, tables};
use crate::support::{kafka, oracle, say, until};
use anyhow::{Context, Result};
use outbox_writer::{Event, Outbox};
use scylla_emulator::error::Error;
use scylla_emulator::faults::{Effect, Fault};
use serde_json::Value;

const FEW: Plan = Plan {
    events: 40,
    keys: 20,
    ahead: 40,
};

/// Every failed attempt is in the log.
const EVERY_ATTEMPT: &str = "log: { level: \"info,outbox_relay::pipeline=debug\" }\n";
/// A breaker that is quick to probe; everything else as by default.
const QUICK_BREAKER: &str =
    "breaker: { failure_threshold: 5, open_for: 2s, success_threshold: 3 }\n";
const KEY: &str = "the key";

/// The dead letters, in the order in which they are listed.
async fn dead_letters(bench: &Bench) -> Result<Vec<Value>> {
    let list = ["dead-letters", "list", "--output", "json"];
    let printed = bench.relay.command(&list).await?;
    Ok(printed
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

/// What the listed dead letters are there for.
async fn reasons(bench: &Bench) -> Result<Vec<String>> {
    let letters = dead_letters(bench).await?;
    let reason = |letter: &Value| letter["reason"].as_str().unwrap_or_default().to_owned();
    Ok(letters.iter().map(reason).collect())
}

/// A running relay with nothing in flight: what has arrived may still lack its acknowledgement, and
/// the outage would cost that event an attempt.
async fn with_nothing_in_flight(bench: &Bench, relay: RelayProcess) -> Result<RelayProcess> {
    relay.stop().await?;
    bench.relay.start().await
}

async fn no_dead_letter_is_left(bench: &Bench) -> Result<()> {
    let none = async || Ok(dead_letters(bench).await?.is_empty());
    until("no dead letter is left", none).await
}

/// Scenario 1: attempts 1 to 3 fail, attempt 4 succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_outage_costs_three_attempts_and_nothing_else() -> Result<()> {
    let case = "a short outage";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    // Longer pauses than by default, so that a slow machine finds the broker before attempt 4.
    let pauses = "retry: { initial_backoff: 500ms, max_backoff: 10s }";
    let bench = Bench::behind(&broker, &format!("{EVERY_ATTEMPT}{pauses}")).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    let relay = with_nothing_in_flight(&bench, relay).await?;
    broker.proxy.set(Mode::Refuse).await?;
    bench.traffic.write_at(KEY, None).await?;
    relay.said_times(ATTEMPT_FAILED, 3).await?;
    broker.proxy.set(Mode::Pass).await?;
    bench.all_arrived().await?;
    assert_eq!(relay.count(ATTEMPT_FAILED), 3, "attempt 4 succeeds");
    assert_eq!(
        relay.count(BREAKER_OPENS),
        0,
        "five failures in a row open it"
    );
    assert_eq!(reasons(&bench).await?, [""; 0]);
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0, "published once");
    Ok(())
}

/// Starts an outage that lasts until all attempts of an event are used up, and writes two more of
/// its key.
async fn long_outage(bench: &Bench, broker: &kafka::Proxied) -> Result<RelayProcess> {
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    bench.traffic.write_at(KEY, None).await?;
    bench.all_arrived().await?;
    let relay = with_nothing_in_flight(bench, relay).await?;
    broker.proxy.set(Mode::Refuse).await?;
    for _ in 0..3 {
        bench.traffic.write_at(KEY, None).await?;
    }
    Ok(relay)
}

/// Scenario 2: five attempts fail, the event and what follows it become dead letters, the broker
/// comes back, and they are published in their place, by themselves or by a person.
async fn long_outage_and_replay(case: &str, auto_replay: bool) -> Result<()> {
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    let by_itself = format!("dead_letters: {{ auto_replay: {auto_replay} }}\n");
    let more = format!("{EVERY_ATTEMPT}{QUICK_BREAKER}{by_itself}");
    let bench = Bench::behind(&broker, &more).await?;
    let relay = long_outage(&bench, &broker).await?;
    relay.said(DEAD_LETTER).await?;
    let all_three = async || Ok(dead_letters(&bench).await?.len() == 3);
    until("three dead letters", all_three).await?;
    assert_eq!(reasons(&bench).await?, ["exhausted", "parked", "parked"]);
    let first = &dead_letters(&bench).await?[0];
    assert_eq!(first["attempts"], 5, "{first}");
    assert_eq!(
        relay.count(ATTEMPT_FAILED),
        5,
        "those after it are not attempted"
    );

    broker.proxy.set(Mode::Pass).await?;
    if !auto_replay {
        // Other keys go on; this one waits for a person.
        bench.write(FEW).await?;
        bench.traffic.write_at(KEY, None).await?;
        bench.arrived(bench.traffic.written().len() - 4).await?;
        let all_four = async || Ok(dead_letters(&bench).await?.len() == 4);
        until("the fourth joins them", all_four).await?;
        bench
            .relay
            .command(&["dead-letters", "replay", "--all"])
            .await?;
    }
    bench.all_arrived().await?;
    no_dead_letter_is_left(&bench).await?;
    // The key flows again.
    bench.traffic.write_at(KEY, None).await?;
    bench.write_and_arrive(FEW).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_is_made_up_for_by_itself() -> Result<()> {
    long_outage_and_replay("a long outage, replayed by itself", true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_is_made_up_for_by_a_person() -> Result<()> {
    long_outage_and_replay("a long outage, replayed by hand", false).await
}

/// Scenario 2 again: who holds has no dead letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_hold_a_long_outage_dead_letters_nothing() -> Result<()> {
    let case = "a long outage, held";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    let hold = "retry: { on_exhausted: hold }";
    let more = format!("{EVERY_ATTEMPT}{QUICK_BREAKER}{hold}");
    let bench = Bench::behind(&broker, &more).await?;
    let relay = long_outage(&bench, &broker).await?;
    relay.said_times(ATTEMPT_FAILED, 7).await?;
    assert_eq!(reasons(&bench).await?, [""; 0]);
    broker.proxy.set(Mode::Pass).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    assert_eq!(reasons(&bench).await?, [""; 0]);
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

/// Scenario 3: the batch of the order and its event fails, so neither is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_saves_nothing_and_publishes_nothing() -> Result<()> {
    let case = "the database write fails";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let setup = Setup {
        direct: &broker.bootstrap,
        ..Setup::default()
    };
    let bench = Bench::with(Database::emulator_only().await?, setup).await?;
    let session = &bench.database.session;
    let (orders, _) = tables(&bench.name);
    let outbox = Outbox::new(session, &orders).await?;
    let things = format!("{}.things", bench.name);
    let insert = format!("INSERT INTO {things} (id, changes) VALUES (?, ?)");
    let insert = session.prepare(insert).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;

    let faults = bench.database.emulator().context("the emulator")?.faults();
    let errors = [
        Error::write_timeout(&bench.name, "orders_outbox", "BATCH_LOG"),
        Error::unavailable(),
        Error::overloaded(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        faults.inject(Fault::on(format!("INTO {orders}"), Effect::Fail(error)));
        let key = format!("failed {number}");
        let batch = outbox
            .batch()
            .statement(&insert, (&key, 1_i64))
            .event(Event::new("order", &key, "Placed").text("{}"));
        assert!(batch.execute(session).await.is_err());
        faults.clear();
        for (table, column) in [(&things, "id"), (&orders, "aggregate_id")] {
            let select = format!("SELECT {column} FROM {table} WHERE {column} = ?");
            let found = session.query_unpaged(select, (&key,)).await?;
            assert_eq!(found.into_rows_result()?.rows_num(), 0, "{table} has {key}");
        }
    }
    // What is written now shows that the relay has read on.
    bench.write_and_arrive(FEW).await?;
    relay.stop().await?;
    // Among the checks: nothing arrived that was not written.
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

/// Scenario 4: an outage in the middle of 100 orders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_in_the_middle_of_a_hundred_orders() -> Result<()> {
    let case = "an outage in the middle of 100 orders";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    let more = format!("{EVERY_ATTEMPT}{QUICK_BREAKER}");
    let bench = Bench::behind(&broker, &more).await?;
    let relay = bench.relay.start().await?;
    // Ten orders with five events each, twice.
    let orders = async || {
        for number in 0..50 {
            bench
                .traffic
                .write_at(&format!("order {}", number % 10), None)
                .await?;
        }
        anyhow::Ok(())
    };
    orders().await?;
    bench.all_arrived().await?;
    let before = bench.collector.all().await?.len();
    let relay = with_nothing_in_flight(&bench, relay).await?;
    broker.proxy.set(Mode::Refuse).await?;
    orders().await?;
    relay.said(BREAKER_OPENS).await?;
    // Two rounds of probes fail; between them nothing is attempted.
    relay.said_times(BREAKER_OPENS, 3).await?;
    let attempts = relay.between(BREAKER_OPENS, BREAKER_MOVES, ATTEMPT_FAILED);
    // What was under way when it opened may fail a little later.
    assert!(
        attempts.iter().skip(1).all(|n| *n <= 3),
        "attempts while open: {attempts:?}"
    );
    assert_eq!(
        bench.collector.all().await?.len(),
        before,
        "what was published stays"
    );
    broker.proxy.set(Mode::Pass).await?;
    bench.all_arrived().await?;
    assert_eq!(
        reasons(&bench).await?,
        [""; 0],
        "waiting uses up no attempts"
    );
    relay.said("\"to\":\"closed\"").await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!((records.len(), oracle::duplicates(&records)), (100, 0));
    Ok(())
}

/// Scenario 5: the relay dies while the broker is away, with dead letters and with events that wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_the_middle_of_an_outage() -> Result<()> {
    let case = "a crash in an outage";
    let Some(broker) = kafka::proxied(case).await else {
        return Ok(());
    };
    let bench = Bench::behind(&broker, QUICK_BREAKER).await?;
    let relay = long_outage(&bench, &broker).await?;
    relay.said(DEAD_LETTER).await?;
    bench.write(Plan { events: 600, ..FEW }).await?;
    relay.said_times(BREAKER_OPENS, 2).await?;
    relay.kill().await?;
    // Nothing was published since, so nothing but what the last checkpoint lacks can be repeated.
    let before = bench.collector.all().await?.len();

    let relay = bench.relay.start().await?;
    relay.said(BREAKER_OPENS).await?;
    relay.kill().await?;
    let relay = bench.relay.start().await?;
    bench.traffic.write_at(KEY, None).await?;
    broker.proxy.set(Mode::Pass).await?;
    bench.all_arrived().await?;
    no_dead_letter_is_left(&bench).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    let repeated = oracle::duplicates(&records);
    say(&format!(
        "{case}: {before} published before the crash, {repeated} repeated"
    ));
    assert!(repeated <= before + IN_FLIGHT, "{repeated} repeated");
    Ok(())
}

/// How often the broker is killed.
const KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_twenty_times_under_load() -> Result<()> {
    let case = "SIGKILL of the broker";
    let Some(mut node) = kafka::own_node(case).await else {
        return Ok(());
    };
    let mut seed = Seed::of(case);
    let bench = Bench::new(&node.bootstrap()).await?;
    bench.relay.reconfigure("breaker: { open_for: 200ms }")?;
    let plan = Plan {
        events: 3_000,
        keys: 100,
        ahead: 300,
    };
    let mut kills: Vec<usize> = (0..KILLS)
        .map(|_| seed.below(plan.events - plan.ahead))
        .collect();
    kills.sort_unstable();
    let relay = bench.relay.start().await?;
    let killing = async {
        for arrived in kills {
            bench.arrived(arrived).await?;
            node = bench.kill_and_restart(node).await?;
        }
        bench.arrived(plan.events).await?;
        Ok(node)
    };
    let writing = bench.traffic.write(plan, bench.collector.progress());
    let (node, ()) = tokio::try_join!(killing, writing)?;
    no_dead_letter_is_left(&bench).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    let repeated = oracle::duplicates(&records);
    say(&format!(
        "{case}: {KILLS} kills, {repeated} repeated, up to {IN_FLIGHT} in flight at each"
    ));
    assert!(repeated <= KILLS * IN_FLIGHT, "{repeated} repeated");
    drop(node);
    Ok(())
}
