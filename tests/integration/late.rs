//! Rows whose times are not those at which they can be seen: late ones, equal ones, and clocks that
//! differ or jump.

use crate::support::bench::Bench;
use crate::support::traffic::Plan;
use crate::support::{kafka, oracle};
use anyhow::{Context, Result};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The window in which rows may appear late.
const WIDE_WINDOW: &str = "follow: { late_window: 180s }";
const SECOND: i64 = 1_000_000;

const FEW: Plan = Plan {
    events: 60,
    keys: 30,
    ahead: 60,
};

fn now() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64)
}

/// Two events of one key, the times of whose writes lie that far back.
async fn write_late(bench: &Bench, key: &str, micros: i64) -> Result<()> {
    let time = now()? - micros;
    bench.traffic.write_at(key, Some(time)).await?;
    bench.traffic.write_at(key, Some(time + 1_000)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_become_visible_up_to_170_seconds_late() -> Result<()> {
    let case = "late rows";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, WIDE_WINDOW).await?;
    let relay = bench.relay.start().await?;
    let late = [SECOND / 10, 5 * SECOND, 60 * SECOND, 170 * SECOND];
    for micros in late {
        bench.write_and_arrive(FEW).await?;
        write_late(&bench, &format!("late by {micros} µs"), micros).await?;
        bench.all_arrived().await?;
    }
    relay.stop().await?;
    // They may as well appear while nobody looks.
    for micros in late {
        write_late(&bench, &format!("late by {micros} µs, unseen"), micros).await?;
    }
    let relay = bench.relay.start().await?;
    bench.all_arrived().await?;
    relay.kill().await?;
    write_late(&bench, "late after a crash", 60 * SECOND).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    relay.stop().await?;
    bench.assert_delivered(case).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_share_a_microsecond_and_pages_end_inside_it() -> Result<()> {
    let case = "equal times";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "follow: { page_rows: 7 }").await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    let time = now()?;
    for number in 0..100 {
        bench
            .traffic
            .write_at(&format!("before {number}"), Some(time))
            .await?;
    }
    bench.all_arrived().await?;
    // The same microsecond again, when it has been read already.
    for number in 0..100 {
        bench
            .traffic
            .write_at(&format!("after {number}"), Some(time))
            .await?;
    }
    bench.all_arrived().await?;
    relay.kill().await?;
    for number in 0..100 {
        bench
            .traffic
            .write_at(&format!("unseen {number}"), Some(time))
            .await?;
    }
    let relay = bench.relay.start().await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    let repeated = oracle::duplicates(&records);
    bench.relay.start().await?.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(
        oracle::duplicates(&records),
        repeated,
        "a clean stop repeats nothing"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_of_writers_differ_by_seconds() -> Result<()> {
    let case = "clock skew";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, "").await?;
    let mut relay = bench.relay.start().await?;
    for round in 0..3 {
        for number in 0..100 {
            let writer = number % 3;
            // One is four seconds late, one is right, one is two seconds ahead.
            let time = now()? + [-4, 0, 2][writer] * SECOND;
            let key = format!("writer {writer}, key {}", number % 10);
            bench.traffic.write_at(&key, Some(time)).await?;
        }
        bench.all_arrived().await?;
        if round == 0 {
            relay.kill().await?;
            relay = bench.relay.start().await?;
        }
    }
    relay.stop().await?;
    bench.assert_delivered(case).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_clock_jumps_by_a_minute_and_back() -> Result<()> {
    let case = "clock jumps";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::emulated(&broker, WIDE_WINDOW).await?;
    let emulator = bench.database.emulator().context("the emulator")?;
    let relay = bench.relay.start().await?;
    let minute = Duration::from_mins(1).as_micros() as i64;
    for jump in [0, minute, 0, -minute, 0] {
        emulator.clock().set(now()? + jump);
        for number in 0..100 {
            let key = format!("key {}", number % 20);
            bench.traffic.write_at(&key, None).await?;
        }
        bench.all_arrived().await?;
    }
    relay.stop().await?;
    let relay = bench.relay.start().await?;
    bench.traffic.write_at("the last", None).await?;
    bench.all_arrived().await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}
