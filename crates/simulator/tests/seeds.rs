//! Some seeds, as every change runs them. `docs/simulation.md` says how to run many.

use std::path::Path;
use std::process::Command;

use outbox_simulator::run;

/// Seeds of this test, in so many threads.
const SEEDS: u64 = 200;
const THREADS: u64 = 4;

#[test]
fn nothing_is_wrong_with_some_seeds() {
    let part = |thread: u64| {
        (0..SEEDS)
            .filter(|seed| seed % THREADS == thread)
            .filter_map(|seed| Some(format!("seed {seed}: {}", run(seed, false).violation?)))
            .collect::<Vec<String>>()
    };
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || part(thread)))
            .collect();
        let parts = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        parts.flat_map(|part| part.expect("no panic")).collect()
    });
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_seed_is_always_the_same_run() {
    for seed in [3, 14, 159, 2_653] {
        let (first, second) = (run(seed, true), run(seed, true));
        assert!(first.trace.len() > 20, "seed {seed} says little");
        assert_eq!(first.trace, second.trace, "seed {seed}");
        let untold = run(seed, false);
        assert_eq!(first.steps, untold.steps, "a trace changes seed {seed}");
    }
}

/// A planted bug whose patch does not apply any more would not be looked for any more.
#[test]
fn the_planted_bugs_can_be_planted() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mutants = std::fs::read_dir(here.join("mutants")).expect("the planted bugs");
    let patches = mutants.map(|entry| entry.expect("a file").path());
    let patches = patches.filter(|path| path.extension().is_some_and(|e| e == "patch"));
    let mut count = 0;
    for patch in patches {
        count += 1;
        let mut git = Command::new("git");
        git.args(["apply", "--check"]).arg(&patch);
        let applied = git.current_dir(here.join("../..")).output();
        let Ok(applied) = applied else {
            println!("there is no git here: not looked at");
            return;
        };
        let said = String::from_utf8_lossy(&applied.stderr);
        assert!(applied.status.success(), "{}: {said}", patch.display());
    }
    assert!(count >= 10, "{count} planted bugs");
}
