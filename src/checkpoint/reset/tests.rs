//! Resets of a group whose rows are known.

use proptest::prelude::*;

use super::*;
use crate::event::Position;
use crate::source::bounds::first_timeuuid;
use crate::source::bounds::timeuuid;
use crate::source::bounds::timeuuid_ticks;

/// A row, and whether it is published.
#[derive(Debug, Clone, Copy)]
struct Known {
    row: RowKey,
    published: bool,
}

impl Known {
    fn micros(&self) -> i64 {
        self.row.position.micros()
    }

    fn hash(&self) -> u64 {
        hash(self.row)
    }
}

fn row(number: i32, micros: i64) -> RowKey {
    let time = timeuuid(timeuuid_ticks(first_timeuuid(micros)), [1; 8]);
    RowKey {
        stream: 0,
        position: Position { time, seq: number },
    }
}

/// A group with its windows.
#[derive(Debug, Clone)]
struct Log {
    rows: Vec<Known>,
    checkpoint: GroupCheckpoint,
    windows: Vec<Window>,
}

impl Log {
    /// Rows at these times; `upto` is where the summary of a checkpoint with this W ends, and windows
    /// are as long as `length`.
    fn new(times: &[(i64, bool)], watermark: i64, upto: i64, length: i64) -> Self {
        let numbered = times.iter().zip(0..);
        let rows: Vec<Known> = numbered
            .map(|((micros, published), number)| Known {
                row: row(number, *micros),
                published: *published,
            })
            .collect();
        let of = |after: i64, upto: i64| -> Summary {
            let inside = rows.iter().filter(|known| {
                known.published && known.micros() > after && known.micros() <= upto
            });
            inside.map(Known::hash).collect()
        };
        let (mut windows, mut begin) = (Vec::new(), 0);
        while begin + length <= watermark {
            let summary = of(begin, begin + length);
            if !summary.is_empty() {
                windows.push(Window {
                    begin,
                    upto: begin + length,
                    summary,
                });
            }
            begin += length;
        }
        let recent = rows
            .iter()
            .filter(|known| known.published && known.micros() > upto);
        let published = Published {
            upto,
            summary: of(watermark, upto),
            unsettled: Vec::new(),
            recent: recent.map(|known| Mark::from(known.row)).collect(),
            window: OpenWindow {
                begin,
                summary: of(begin, watermark),
            },
        };
        Self {
            checkpoint: GroupCheckpoint {
                key: GroupKey {
                    generation: 0,
                    group: vec![1],
                },
                watermark,
                published,
                closed: false,
            },
            windows,
            rows,
        }
    }

    /// Looks as a caller does that reads everything.
    fn look(&self, at: i64) -> Outlook {
        let mut look = Look::new(self.checkpoint.clone(), self.windows.clone(), at);
        for Stretch { after, upto, part } in look.reads() {
            for known in &self.rows {
                if known.micros() > after && known.micros() <= upto {
                    look.saw(
                        part,
                        Seen {
                            row: known.row,
                            event: true,
                        },
                    );
                }
            }
        }
        look.end()
    }

    /// The windows and the checkpoint after a reset.
    fn after(&self, reset: &Reset) -> (Vec<Window>, GroupCheckpoint) {
        let removed = |window: &Window| {
            reset
                .removed
                .iter()
                .any(|(_, begin)| *begin == window.begin)
        };
        let mut windows = self.windows.clone();
        windows.retain(|window| !removed(window));
        (windows, reset.groups[0].clone())
    }

    /// The hashes of rows with times in (after, upto].
    fn hashes(&self, after: i64, upto: i64) -> impl Iterator<Item = u64> {
        let inside = move |known: &&Known| known.micros() > after && known.micros() <= upto;
        self.rows.iter().filter(inside).map(Known::hash)
    }

    fn numbers(&self, of: impl Fn(&Known) -> bool) -> HashSet<u64> {
        self.rows
            .iter()
            .filter(|known| of(known))
            .map(Known::hash)
            .collect()
    }

    /// The rows that the next run publishes, with sweeps, as the relay compares them.
    fn published_next(&self, windows: &[Window], checkpoint: &GroupCheckpoint) -> HashSet<u64> {
        let published = &checkpoint.published;
        let watermark = checkpoint.watermark;
        let mut fresh = HashSet::new();
        let (mut at, mut stretches) = (0, windows.to_vec());
        stretches.push(Window {
            begin: published.window.begin,
            upto: watermark,
            summary: published.window.summary,
        });
        stretches.push(Window {
            begin: watermark,
            upto: published.upto,
            summary: published.summary,
        });
        for window in stretches {
            assert!(window.begin >= at, "windows overlap");
            // Between two windows nothing was published.
            fresh.extend(self.hashes(at, window.begin));
            let inside = self.hashes(window.begin, window.upto);
            fresh.extend(window.summary.reconcile(inside).fresh);
            at = window.upto;
        }
        let recent: HashSet<u64> = published.recent.iter().map(|mark| mark.hash).collect();
        let above = self.hashes(at, i64::MAX);
        fresh.extend(above.filter(|hash| !recent.contains(hash)));
        fresh
    }
}

fn times() -> impl Strategy<Value = Vec<(i64, bool)>> {
    // Few enough that every summary tells which are unpublished.
    let row = (1_i64..100, prop::bool::weighted(0.98));
    prop::collection::vec(row, 0..60).prop_filter("few unpublished", |rows| {
        rows.iter().filter(|(_, published)| !published).count() <= 3
    })
}

proptest! {
    #[test]
    fn exactly_what_lies_behind_is_published_again(
        times in times(),
        watermark in 1_i64..100,
        summed in 0_i64..50,
        length in 5_i64..40,
        at in 0_i64..110,
    ) {
        let log = Log::new(&times, watermark, watermark + summed, length);
        let outlook = log.look(at);
        prop_assert!(outlook.complete);
        let behind = |known: &Known| known.micros() > at;
        let lost = |known: &Known| !known.published && !behind(known) && known.micros() > watermark;
        let again = log.numbers(|known| behind(known) && known.published);
        // Late rows below W that were not published yet are counted as if they had been.
        let late = log.numbers(|k| behind(k) && !k.published && k.micros() <= watermark);
        prop_assert_eq!(outlook.again as usize, again.len() + late.len());
        prop_assert_eq!(outlook.skipped as usize, log.numbers(lost).len());
        let skips = outlook.skips();
        let mut reset = Reset::default();
        outlook.write(skips, &mut reset);
        let (windows, checkpoint) = log.after(&reset);
        let next = log.published_next(&windows, &checkpoint);
        if skips {
            prop_assert_eq!(checkpoint.watermark, at);
            prop_assert_eq!(checkpoint.published, Published::nothing(at));
            return Ok(());
        }
        prop_assert!(checkpoint.watermark <= watermark && checkpoint.watermark <= at.max(0));
        let expected = log.numbers(|known| behind(known) || !known.published);
        prop_assert_eq!(next, expected);
        // The same reset again changes nothing.
        let again = Log { checkpoint: checkpoint.clone(), windows, rows: log.rows.clone() };
        let outlook = again.look(at);
        prop_assert_eq!((outlook.again, outlook.skipped), (0, 0));
        let mut reset = Reset::default();
        outlook.write(false, &mut reset);
        prop_assert_eq!(&reset.groups[0], &checkpoint);
    }
}

#[test]
fn a_closed_group_is_opened_by_a_reset_below_its_end_and_else_stays() {
    let mut log = Log::new(&[(10, true), (20, true)], 50, 50, 100);
    log.checkpoint.closed = true;
    let mut reset = Reset::default();
    log.look(60).write(false, &mut reset);
    assert_eq!(reset, Reset::default());
    let outlook = log.look(15);
    assert_eq!(outlook.again, 1);
    outlook.write(false, &mut reset);
    assert_eq!(
        (reset.groups[0].watermark, reset.groups[0].closed),
        (15, false)
    );
}

#[test]
fn what_was_not_counted_is_given_up_only_above_the_watermark() {
    let log = Log::new(&[(10, true), (20, true), (70, false)], 50, 50, 100);
    for (at, skips) in [(15, false), (80, true)] {
        let mut look = Look::new(log.checkpoint.clone(), Vec::new(), at);
        look.left();
        let outlook = look.end();
        assert!(!outlook.complete);
        assert_eq!(outlook.skips(), skips, "at {at}");
    }
}

#[test]
fn a_window_that_a_crash_has_left_behind_is_passed_over() {
    let mut log = Log::new(
        &[(12, true), (27, true), (28, true), (45, true)],
        50,
        50,
        25,
    );
    // (0, 25], (25, 50]; an earlier run had saved (20, 30] and not its checkpoint.
    let left = Window {
        begin: 20,
        upto: 30,
        summary: Summary::default(),
    };
    log.windows.insert(1, left);
    let mut reset = Reset::default();
    log.look(27).write(false, &mut reset);
    let window = reset.groups[0].published.window;
    assert_eq!((window.begin, window.summary.count()), (25, 1));
    let removed: Vec<i64> = reset.removed.iter().map(|(_, begin)| *begin).collect();
    assert_eq!(removed, [20, 25]);
}
