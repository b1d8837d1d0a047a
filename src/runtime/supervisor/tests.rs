//! Tasks under the supervisor, in paused time; and the table as it is documented.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::policy::{Escalation, Reaction};
use super::*;
use crate::config::UnreadyWhen;
use crate::pipeline::testing;
use crate::runtime::health::{Role, State as Health};

const DEADLINES: Deadlines = Deadlines {
    drain: Duration::from_secs(20),
    finish: Duration::from_secs(15),
};

struct Bench {
    supervisor: Supervisor,
    board: Board,
    metrics: Arc<Metrics>,
    ready: watch::Receiver<bool>,
}

fn bench() -> Bench {
    let board = Board::default();
    let metrics = Arc::new(Metrics::default());
    let (ready, is_ready) = watch::channel(false);
    let limits = config::Supervision {
        max_restarts: 3.try_into().expect("not zero"),
        ..testing::config().supervision
    };
    board.open(UnreadyWhen::AllFailed, ready);
    Bench {
        supervisor: Supervisor::new(limits, board.clone(), Arc::clone(&metrics)),
        board,
        metrics,
        ready: is_ready,
    }
}

impl Bench {
    /// How the source of `table` fares.
    fn health(&self, table: &str) -> Health {
        let part = Part::Task(Name::source(&table));
        let parts = self.board.snapshot().parts;
        let status = parts.into_iter().find(|status| status.part == part);
        status.expect("the part is there").state
    }

    /// Lets the supervisor work for so many seconds.
    async fn seconds(&mut self, seconds: u64) {
        let all = Duration::from_secs(seconds);
        let ended = timeout(all, self.supervisor.watch()).await;
        assert!(ended.is_err(), "nothing ends the process: {ended:?}");
    }
}

/// Counts its runs; each reads until the relay finishes, unless it is told to fail.
#[derive(Clone, Default)]
struct Script {
    runs: Arc<AtomicU32>,
    stops: Arc<Mutex<Vec<Phase>>>,
}

impl Script {
    fn runs(&self) -> u32 {
        self.runs.load(Ordering::Relaxed)
    }

    /// A task that runs until the phase is `until`.
    fn until(
        &self,
        until: Phase,
    ) -> impl Fn(watch::Receiver<Phase>) -> BoxFuture<'static, Result<(), Infallible>> + use<> {
        let script = self.clone();
        move |mut phase| {
            let script = script.clone();
            async move {
                script.runs.fetch_add(1, Ordering::Relaxed);
                let reached = phase.wait_for(|phase| *phase >= until).await;
                let reached = *reached.expect("the supervisor is there");
                script.stops.lock().expect("no panic").push(reached);
                Ok(())
            }
            .boxed()
        }
    }

    /// A task whose runs do what `act` says of their number, from 1.
    fn acts<F, A>(&self, act: A) -> impl Fn(watch::Receiver<Phase>) -> F + use<F, A>
    where
        F: Future<Output = io::Result<()>>,
        A: Fn(u32) -> F + Send + Sync + 'static,
    {
        let runs = Arc::clone(&self.runs);
        move |_| act(runs.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn fails() -> std::future::Ready<io::Result<()>> {
    std::future::ready(Err(io::Error::other("the table is gone")))
}

#[tokio::test(start_paused = true)]
async fn a_table_that_fails_for_good_is_reported_and_stops_no_other() {
    let mut bench = bench();
    let (bad, good) = (Script::default(), Script::default());
    let name = Name::source(&"shop.bad");
    bench.supervisor.start(name, bad.acts(|_| fails()));
    let name = Name::source(&"shop.good");
    bench.supervisor.start(name, good.until(Phase::Finishing));
    // Restarts after 1, 2 and 4 seconds, then one every two minutes.
    bench.seconds(6).await;
    assert_eq!(bad.runs(), 3);
    assert_eq!(bench.health("shop.bad").name(), "degraded");
    bench.seconds(2).await;
    assert_eq!(bad.runs(), 4);
    let reason = "it has failed: the table is gone".into();
    assert_eq!(bench.health("shop.bad"), Health::Failed(reason));
    assert_eq!(bench.metrics.failed_tasks.get(), 1);
    bench.seconds(360).await;
    assert_eq!(bad.runs(), 7);
    assert_eq!((good.runs(), bench.health("shop.good")), (1, Health::Ok));
    assert!(*bench.ready.borrow(), "one table is published");
    let stopped = bench.supervisor.stop(DEADLINES).await;
    assert_eq!(stopped.unfinished, [Name::source(&"shop.bad")]);
    assert!(stopped.fatal.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failed_table_recovers_when_a_run_is_stable() {
    let mut bench = bench();
    let source = Script::default();
    let act = |run| async move {
        match run {
            1..5 => fails().await,
            _ => std::future::pending().await,
        }
    };
    let name = Name::source(&"shop.outbox");
    bench.supervisor.start(name, source.acts(act));
    bench.seconds(126).await;
    assert_eq!((source.runs(), *bench.ready.borrow()), (4, false));
    bench.seconds(60).await;
    assert_eq!((source.runs(), *bench.ready.borrow()), (5, false));
    bench.seconds(2).await;
    assert_eq!(bench.health("shop.outbox"), Health::Ok);
    assert!(*bench.ready.borrow());
    assert_eq!(bench.metrics.failed_tasks.get(), 0);
    assert_eq!(bench.metrics.task_restarts.get(), 4);
    assert_eq!(bench.metrics.restarts_by_task.get("source"), 4);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_and_its_message_is_told() {
    let mut bench = bench();
    let source = Script::default();
    let act = |run| async move { panic!("defect {run}") };
    let name = Name::source(&"shop.outbox");
    bench.supervisor.start(name, source.acts(act));
    bench.seconds(2).await;
    assert_eq!(source.runs(), 2);
    let health = bench.health("shop.outbox");
    assert!(
        health
            .reason()
            .is_some_and(|reason| reason.contains("defect 2"))
    );
    assert_eq!(bench.metrics.task_panics.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_run_is_made_is_the_tasks_own() {
    let mut bench = bench();
    let make = |_| -> std::future::Ready<io::Result<()>> { panic!("no run") };
    bench.supervisor.start(Kind::HealthMonitor, make);
    bench.seconds(2).await;
    assert_eq!(bench.metrics.task_panics.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_fails_is_restarted_for_ever() {
    let mut bench = bench();
    let monitor = Script::default();
    bench
        .supervisor
        .start(Kind::HealthMonitor, monitor.acts(|_| fails()));
    bench.seconds(1 + 2 + 4 + 8 + 16 + 10 * 30).await;
    assert_eq!(monitor.runs(), 15);
    assert!(*bench.ready.borrow());
    assert_eq!(bench.metrics.failed_tasks.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn however_the_pipeline_ends_the_process_drains() {
    for (how, told) in [(0, "defect"), (1, "the table is gone"), (2, "by itself")] {
        let mut bench = bench();
        let source = Script::default();
        let name = Name::source(&"shop.outbox");
        bench.supervisor.start(name, source.until(Phase::Finishing));
        bench.supervisor.start(Kind::Pipeline, move |_| async move {
            match how {
                0 => panic!("defect"),
                1 => fails().await,
                _ => Ok(()),
            }
        });
        let fatal = bench.supervisor.watch().await;
        assert_eq!(fatal.task, Kind::Pipeline.into());
        assert!(Chain(&fatal).to_string().contains(told), "{told}");
        assert!(!*bench.ready.borrow());
        // What can be saved is saved, without waiting for a deadline.
        let began = Instant::now();
        let stopped = bench.supervisor.stop(DEADLINES).await;
        assert_eq!(
            (stopped.unfinished, began.elapsed()),
            (vec![], Duration::ZERO)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_drains_then_finishes_then_ends_the_rest() {
    let mut bench = bench();
    let [pipeline, source, http] = [(); 3].map(|()| Script::default());
    let start = &mut bench.supervisor;
    start.start(Kind::Http, http.until(Phase::Draining));
    start.start(Kind::HealthMonitor, |_| {
        std::future::pending::<io::Result<()>>()
    });
    start.start(Name::source(&"shop.outbox"), source.until(Phase::Finishing));
    let slow = Arc::clone(&pipeline.stops);
    start.start(Kind::Pipeline, move |mut phase| {
        let stops = Arc::clone(&slow);
        async move {
            let _ = phase.wait_for(|phase| *phase > Phase::Running).await;
            tokio::time::sleep(Duration::from_secs(9)).await;
            stops.lock().expect("no panic").push(*phase.borrow());
            Ok::<_, io::Error>(())
        }
    });
    bench.seconds(1).await;
    let began = Instant::now();
    let stopped = bench.supervisor.stop(DEADLINES).await;
    assert_eq!(began.elapsed(), Duration::from_secs(9));
    assert!(stopped.unfinished.is_empty() && stopped.fatal.is_none());
    let seen = |script: &Script| script.stops.lock().expect("no panic").clone();
    assert_eq!(seen(&pipeline), [Phase::Draining]);
    assert_eq!(seen(&source), [Phase::Finishing]);
    assert_eq!(seen(&http), [Phase::Draining]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_keeps_to_its_deadlines() {
    let mut bench = bench();
    let stuck = |_| std::future::pending::<io::Result<()>>();
    bench.supervisor.start(Kind::Pipeline, stuck);
    bench.supervisor.start(Name::source(&"shop.outbox"), stuck);
    let began = Instant::now();
    let stopped = bench.supervisor.stop(DEADLINES).await;
    assert_eq!(began.elapsed(), DEADLINES.drain + DEADLINES.finish);
    assert_eq!(stopped.unfinished, [Name::source(&"shop.outbox")]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_with_a_stop() {
    let mut bench = bench();
    let source = Script::default();
    let name = Name::source(&"shop.outbox");
    bench
        .supervisor
        .start(name.clone(), source.acts(|_| fails()));
    bench.seconds(4).await;
    let began = Instant::now();
    let stopped = bench.supervisor.stop(DEADLINES).await;
    assert_eq!(stopped.unfinished, [name]);
    assert_eq!((source.runs(), began.elapsed()), (3, Duration::ZERO));
}

#[tokio::test]
async fn a_panic_of_the_supervisor_itself_drains() {
    let fatal = guarded(async { panic!("a defect of the root") }).await;
    assert_eq!(fatal.task, Kind::Coordinator.into());
    assert!(Chain(&fatal).to_string().contains("a defect of the root"));
}

#[test]
fn reasons_are_bounded() {
    assert_eq!(shortened("ä"), "ä");
    assert_eq!(shortened(&"ä".repeat(1000)).chars().count(), SHOWN + 1);
}

fn reaction(reaction: Reaction) -> &'static str {
    match reaction {
        Reaction::Restart => "restart with backoff",
        Reaction::Drain => "drain, exit 1",
        Reaction::Leave => "nothing: it is done",
    }
}

fn table() -> String {
    let mut text =
        "| task | error | panic | ends by itself | restarts used up | at a stop | failed: \
                    ready? | why |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for kind in Kind::ALL {
        let policy = kind.policy();
        let escalation = match (policy.on_error, policy.escalation) {
            (Reaction::Restart, Escalation::None) => "goes on at the longest pause",
            (Reaction::Restart, Escalation::Failed) => "reported as failed, retried slowly",
            (Reaction::Drain | Reaction::Leave, _) => "–",
        };
        let at_stop = match policy.at_stop {
            AtStop::Drains => "1. drains",
            AtStop::Finishes => "2. last checkpoint",
            AtStop::IsEnded => "3. is ended",
        };
        let ready = match Part::Task(kind.into()).role() {
            Role::Needed => "not ready",
            Role::Table => "as `unready_when` says",
            Role::Reported => "ready",
        };
        let cells = [
            kind.to_string(),
            reaction(policy.on_error).to_owned(),
            reaction(policy.on_panic).to_owned(),
            reaction(policy.on_end).to_owned(),
            escalation.to_owned(),
            at_stop.to_owned(),
            ready.to_owned(),
            policy.why.to_owned(),
        ];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// Set `UPDATE_DOCS=1` to write what is stale.
#[test]
fn the_documented_table_is_the_table() {
    const BEGIN: &str = "<!-- table: begin -->\n";
    const END: &str = "<!-- table: end -->";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/supervision.md");
    let text = fs::read_to_string(&path).expect("the page is there");
    let (head, rest) = text.split_once(BEGIN).expect("the table begins");
    let (_, tail) = rest.split_once(END).expect("the table ends");
    let fresh = format!("{head}{BEGIN}{}{END}{tail}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &fresh).expect("the page can be written");
        return;
    }
    assert!(
        text == fresh,
        "docs/supervision.md is stale: run `UPDATE_DOCS=1 cargo test -p outbox-relay \
         the_documented_table`"
    );
}
