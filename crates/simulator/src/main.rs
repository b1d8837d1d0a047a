//! Runs seeds, or replays one.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use outbox_simulator::{Outcome, run};

/// Simulates the relay: many seeds, or one of them again.
#[derive(Debug, Parser)]
struct Args {
    /// So many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Only this one.
    #[arg(long)]
    seed: Option<u64>,
    /// With everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Stop after so many seeds that fail.
    #[arg(long, default_value_t = 20)]
    most: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        return one(seed, args.trace);
    }
    let failed = many(&args);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(seed: u64, traced: bool) -> ExitCode {
    let outcome = run(seed, traced);
    for line in &outcome.trace {
        println!("{line}");
    }
    match outcome.violation {
        None => {
            println!("seed {seed}: nothing is wrong");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> u64 {
    let next = AtomicU64::new(args.start);
    let end = args.start.saturating_add(args.seeds);
    let (failed, steps, simulated) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) < args.most {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let Outcome {
                        violation,
                        steps: made,
                        simulated: time,
                        ..
                    } = run(seed, false);
                    steps.fetch_add(made, Ordering::Relaxed);
                    simulated.fetch_add(time as u64, Ordering::Relaxed);
                    if let Some(violation) = violation {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("seed {seed}: {violation}");
                    }
                }
            });
        }
    });
    let seeds = next.load(Ordering::Relaxed).min(end) - args.start;
    let (failed, took) = (failed.into_inner(), began.elapsed().as_secs_f64());
    let hours = simulated.into_inner() / 3_600_000_000;
    println!(
        "{seeds} seeds, {failed} failed; {} steps, {hours} simulated hours, {took:.1} s, {:.0} seeds/s",
        steps.into_inner(),
        seeds as f64 / took
    );
    failed
}
