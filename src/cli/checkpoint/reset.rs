//! `checkpoint reset`: counts what a reset would do, and does it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use scylla::client::session::Session;
use serde::Serialize;
use tokio::time::Instant;

use super::Reset as Args;
use crate::checkpoint::reset::{Look, Outlook, Part, Reset};
use crate::checkpoint::{GroupCheckpoint, GroupKey, Published, Store};
use crate::cli::moment::{self, Moment, rfc3339, span};
use crate::cli::{OutputFormat, claim, out};
use crate::config::{Config, Outbox, TableName};
use crate::ownership::{Claim, Ownership, Role};
use crate::scylla as cluster;
use crate::source::census::Census;
use crate::source::generations::{Generations, StreamGroup};
use crate::source::plan;
use crate::source::reader::Range;

pub(super) async fn run(
    config: &Config,
    session: Arc<Session>,
    store: Store,
    outboxes: &[Outbox],
    args: &Args,
) -> Result<()> {
    if !args.yes {
        let plans = plans(&session, &store, outboxes, args).await?;
        print(&plans, args, false)?;
        if args.dry_run {
            return Ok(());
        }
        bail!("nothing was changed: give --yes to do it");
    }
    let (keyspace, name) = (&config.scylla.keyspace, &config.relay.name);
    let ownership = Ownership::new(Arc::clone(&session), keyspace, name, Role::Command).await?;
    let began = Instant::now();
    if let Claim::Held(holder) = ownership.claim().await? {
        bail!("{holder} owns the relay's name: stop it first");
    }
    let work = async |until| {
        let store = store.with_limit(until);
        let plans = plans(&session, &store, outboxes, args).await?;
        for plan in &plans {
            let again = "some stream groups may be reset already: make the same reset again";
            store.reset(&plan.table, &plan.reset).await.context(again)?;
        }
        Ok(plans)
    };
    let plans = claim::owned(&ownership, began, work).await?;
    print(&plans, args, true)
}

/// What is to be done with one table.
#[derive(Debug)]
struct Plan {
    table: TableName,
    to: i64,
    groups: usize,
    again: u64,
    skipped: u64,
    /// Whether all was counted.
    complete: bool,
    reset: Reset,
}

/// A plan as it is printed for programs.
#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    to: String,
    to_micros: i64,
    groups: usize,
    published_again: u64,
    skipped: u64,
    /// Whether the counts are exact, and not lower bounds.
    exact: bool,
}

async fn plans(
    session: &Arc<Session>,
    store: &Store,
    outboxes: &[Outbox],
    args: &Args,
) -> Result<Vec<Plan>> {
    let mut plans = Vec::new();
    for outbox in outboxes {
        let table = &outbox.table;
        let plan = Planner::open(session, store, outbox, args).await;
        let plan = Box::pin(plan?.plan()).await;
        plans.push(plan.with_context(|| format!("look at {table}"))?);
    }
    Ok(plans)
}

struct Planner<'c> {
    store: &'c Store,
    table: &'c TableName,
    generations: Generations,
    census: Census,
    now: i64,
    to: i64,
    ttl: Duration,
    /// Rows that may still be read to count.
    left: u64,
}

impl<'c> Planner<'c> {
    async fn open(
        session: &Arc<Session>,
        store: &'c Store,
        outbox: &'c Outbox,
        args: &Args,
    ) -> Result<Self> {
        let table = &outbox.table;
        let described = cluster::describe_table(session, table).await?;
        let described = described.with_context(|| format!("{table} does not exist"))?;
        let cdc = described
            .cdc
            .as_ref()
            .with_context(|| format!("{table} has no log: `outbox-relay check` says what to do"))?;
        let now = moment::now();
        let to = time(args, table, now, cdc.ttl)?;
        Ok(Self {
            generations: Generations::of(Arc::clone(session), table.clone()).await?,
            census: Census::open(Arc::clone(session), outbox, &described).await?,
            store,
            table,
            now,
            to,
            ttl: cdc.ttl,
            left: args.count_limit.get(),
        })
    }

    async fn plan(mut self) -> Result<Plan> {
        let loaded = self.store.load(self.table).await?;
        let Some(start) = loaded.start else {
            bail!("it has not been read yet: `follow.start` says where the first start begins");
        };
        let groups = loaded.groups.into_iter();
        let mut stored: HashMap<GroupKey, GroupCheckpoint> =
            groups.map(|group| (group.key.clone(), group)).collect();
        let listed = self.generations.timestamps().await?;
        let open = |generation: i64| {
            let mut groups = stored.values();
            groups.any(|group| group.key.generation == generation && !group.closed)
        };
        let needed = plan::needed(&listed, self.to, self.ttl, self.now, open);
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for timestamp in needed {
            for group in self.generations.groups(timestamp).await? {
                let key = GroupKey {
                    generation: timestamp,
                    group: group.id.clone(),
                };
                let first = plan::first_watermark(timestamp, start);
                match stored.remove(&key) {
                    Some(checkpoint) => known.push(self.look(&group, checkpoint).await?),
                    // It begins where the log does: what is stored for the table is enough.
                    None => unknown.push(self.look(&group, nothing(key, first)).await?),
                }
            }
        }
        Ok(self.sum_up(start, known, &unknown))
    }

    /// Looks at what a reset does to one group.
    async fn look(&mut self, group: &StreamGroup, checkpoint: GroupCheckpoint) -> Result<Outlook> {
        let key = checkpoint.key.clone();
        let at = plan::first_watermark(key.generation, self.to);
        let windows = self.store.windows(self.table, &key).await?;
        let mut look = Look::new(checkpoint, windows, at);
        for stretch in look.reads() {
            let part = stretch.part;
            let must = matches!(part, Part::Window | Part::Summed);
            let mut left = false;
            let range = Range {
                after: stretch.after,
                upto: Some(stretch.upto),
            };
            let tell = |seen| {
                if !must && self.left == 0 {
                    left = true;
                    return false;
                }
                self.left = self.left.saturating_sub(1);
                look.saw(part, seen);
                true
            };
            self.census.rows(&group.streams, range, tell).await?;
            if left {
                look.left();
            }
        }
        Ok(look.end())
    }

    fn sum_up(&self, start: i64, known: Vec<Outlook>, unknown: &[Outlook]) -> Plan {
        let all = || known.iter().chain(unknown);
        let skips = all().any(Outlook::skips);
        let again = all().map(|outlook| outlook.again).sum();
        let skipped = all().map(|outlook| outlook.skipped).sum();
        let complete = all().all(|outlook| outlook.complete);
        let groups = all().count();
        let mut reset = Reset {
            // What is given up is not looked for any more; sweeps go back to here.
            start: (skips || self.to < start).then_some(self.to),
            ..Reset::default()
        };
        if reset.start.is_none() && self.is_about_to_expire() {
            // As a first start would: the relay does not refuse to read rows that expire before its eyes.
            reset.start = Some(start);
        }
        for outlook in known {
            outlook.write(skips, &mut reset);
        }
        Plan {
            table: self.table.clone(),
            to: self.to,
            groups,
            again,
            skipped,
            complete,
            reset,
        }
    }

    /// Whether the oldest rows that are to be read have a tenth of their time left at most.
    fn is_about_to_expire(&self) -> bool {
        let age = self.now.saturating_sub(self.to);
        !self.ttl.is_zero() && age >= micros(self.ttl) / 10 * 9
    }
}

/// A group of which nothing is stored.
fn nothing(key: GroupKey, watermark: i64) -> GroupCheckpoint {
    GroupCheckpoint {
        key,
        watermark,
        published: Published::nothing(watermark),
        closed: false,
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Where to go on, in microseconds since the Unix epoch.
fn time(args: &Args, table: &TableName, now: i64, ttl: Duration) -> Result<i64> {
    let oldest = if ttl.is_zero() {
        0
    } else {
        now.saturating_sub(micros(ttl))
    };
    let to = match args.to {
        Moment::Earliest => return Ok(oldest),
        Moment::Latest => return Ok(now),
        Moment::At(micros) => micros,
        Moment::Ago(ago) => now.saturating_sub(micros(ago)),
    };
    ensure!(to <= now, "{} lies in the future", rfc3339(to));
    ensure!(
        to >= oldest || args.allow_expired,
        "the log of {table} keeps rows for {}: what was written between {} and {} may be gone; go to a \
         later time or to `earliest`, or give --allow-expired",
        span(ttl.as_secs_f64()),
        rfc3339(to),
        rfc3339(oldest)
    );
    Ok(to)
}

fn print(plans: &[Plan], args: &Args, done: bool) -> Result<()> {
    if args.output == OutputFormat::Json {
        let shown = |plan: &Plan| Shown {
            table: plan.table.to_string(),
            to: rfc3339(plan.to),
            to_micros: plan.to,
            groups: plan.groups,
            published_again: plan.again,
            skipped: plan.skipped,
            exact: plan.complete,
        };
        let tables: Vec<Shown> = plans.iter().map(shown).collect();
        let all = serde_json::json!({ "done": done, "tables": tables });
        return out::line(serde_json::to_string_pretty(&all)?);
    }
    for plan in plans {
        out::text(text(plan, done))?;
    }
    Ok(())
}

fn text(plan: &Plan, done: bool) -> String {
    let bound = if plan.complete { "" } else { "at least " };
    let (goes, again, given_up) = if done {
        ("goes", "published again", "given up")
    } else {
        ("would go", "would be published again", "would be given up")
    };
    let events = |count: u64| format!("{bound}{count} event(s)");
    let lines = [
        format!("{}: {goes} on at {}", plan.table, rfc3339(plan.to)),
        format!("  {:<24}  {}", "stream groups", plan.groups),
        format!("  {again:<24}  {}", events(plan.again)),
        format!("  {given_up:<24}  {}", events(plan.skipped)),
    ];
    lines.map(|line| line + "\n").concat()
}
