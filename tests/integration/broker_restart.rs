//! A broker that dies and comes back.

use crate::support::bench::Bench;
use crate::support::kafka;
use crate::support::traffic::Plan;
use anyhow::Result;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_restarted() -> Result<()> {
    let case = "broker restart";
    let Some(node) = kafka::own_node(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&node.bootstrap()).await?;
    let plan = Plan {
        events: 2_000,
        keys: 100,
        ahead: 500,
    };
    let relay = bench.relay.start().await?;
    let restart = async {
        bench.arrived(plan.events / 2).await?;
        let node = bench.kill_and_restart(node).await?;
        bench.arrived(plan.events).await?;
        Ok(node)
    };
    let writing = bench.traffic.write(plan, bench.collector.progress());
    let (node, ()) = tokio::try_join!(restart, writing)?;
    relay.stop().await?;
    bench.assert_delivered(case).await?;
    drop(node);
    Ok(())
}
