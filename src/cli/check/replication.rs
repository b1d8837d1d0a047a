//! Copies of the data: how many there are, and whether reads meet writes. Pure.

use std::collections::BTreeMap;

use scylla::cluster::metadata::Strategy;
use scylla::statement::Consistency;

use super::code::Code;
use super::finding::Finding;

/// A cluster as far as copies are concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster<'c> {
    /// Nodes of each datacenter.
    pub(super) nodes: &'c BTreeMap<String, usize>,
    /// `scylla.datacenter`.
    pub(super) datacenter: Option<&'c str>,
    /// `scylla.consistency`.
    pub(super) consistency: Consistency,
}

const MORE_COPIES: &str = "ALTER KEYSPACE with 'class': 'NetworkTopologyStrategy' and three replicas in each \
                           datacenter, then run a repair";

/// The name that stands for every datacenter.
const EVERYWHERE: &str = "replication_factor";

impl Cluster<'_> {
    /// Whether the datacenter of the configuration exists; none if there is none in it.
    pub(super) fn datacenter(&self) -> Option<Finding> {
        let wanted = self.datacenter?;
        let subject = "scylla.datacenter";
        if let Some(nodes) = self.nodes.get(wanted) {
            let message = format!("{wanted} has {nodes} node(s)");
            return Some(Finding::ok(Code::Datacenter, subject, message));
        }
        let known: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
        let message = format!("there is no {wanted}; there are: {}", known.join(", "));
        let remedy = "correct scylla.datacenter: names of datacenters are case-sensitive";
        Some(Finding::error(Code::Datacenter, subject, message, remedy))
    }

    /// How many copies a keyspace has.
    pub(super) fn copies(&self, subject: &str, strategy: &Strategy) -> Finding {
        let factors = self.factors(strategy);
        let shown = shown(&factors);
        if matches!(strategy, Strategy::LocalStrategy | Strategy::Other { .. }) {
            let reason = "it is replicated in a way of its own";
            return Finding::unknown(Code::Replication, subject, reason);
        }
        let unknown = factors.keys().find(|name| !self.nodes.contains_key(*name));
        if let Some(unknown) = unknown {
            let message = format!("replicates to {unknown}, which has no node ({shown})");
            return Finding::warning(Code::Replication, subject, message, MORE_COPIES);
        }
        if let Some(name) = self.datacenter
            && self.nodes.contains_key(name)
            && factors.get(name).copied().unwrap_or(0) == 0
        {
            let message = format!("has no replica in {name}, scylla.datacenter ({shown})");
            return Finding::error(Code::Replication, subject, message, MORE_COPIES);
        }
        let simple = matches!(strategy, Strategy::SimpleStrategy { .. });
        if simple && self.nodes.len() > 1 {
            let message = "uses SimpleStrategy, which knows nothing of the datacenters";
            return Finding::warning(Code::Replication, subject, message, MORE_COPIES);
        }
        let least = factors.values().copied().filter(|n| *n > 0).min();
        let nodes: usize = self.nodes.values().sum();
        match least {
            Some(1) if nodes > 1 => {
                let message =
                    format!("has one replica of each row ({shown}): a lost node loses events");
                Finding::warning(Code::Replication, subject, message, MORE_COPIES)
            }
            Some(1) => {
                let message =
                    "has one replica of each row, as there is one node: not for production";
                Finding::ok(Code::Replication, subject, message)
            }
            _ => Finding::ok(Code::Replication, subject, format!("has replicas: {shown}")),
        }
    }

    /// Whether what is read at the configured consistency meets what is written at a quorum.
    pub(super) fn consistency(&self, subject: &str, strategy: &Strategy) -> Finding {
        let factors = self.factors(strategy);
        let all: usize = factors.values().sum();
        let local = match self.datacenter {
            Some(name) => factors.get(name).copied().unwrap_or(0),
            None => factors.values().copied().max().unwrap_or(0),
        };
        let quorum = |copies: usize| copies / 2 + 1;
        let level = self.consistency;
        let (read, of) = match level {
            Consistency::LocalQuorum => (quorum(local), local),
            Consistency::LocalOne => (1, local),
            Consistency::Two => (2, all),
            Consistency::Three => (3, all),
            Consistency::Quorum => (quorum(all), all),
            Consistency::EachQuorum => (factors.values().map(|n| quorum(*n)).sum(), all),
            Consistency::All => (all, all),
            _ => (1, all),
        };
        if read > of {
            let message = format!("reads at {level} need {read} replicas, and there are {of}");
            let remedy = "set scylla.consistency: local_quorum, or add replicas";
            return Finding::error(Code::Consistency, subject, message, remedy);
        }
        let least_write = of + 1 - read;
        let seen = format!("reads at {level} ask {read} of {of} replica(s)");
        if least_write > quorum(of) {
            let message = format!(
                "{seen}: a row is sure to be seen only if {least_write} have it, more than a quorum"
            );
            let remedy = "set scylla.consistency: local_quorum, and write at LOCAL_QUORUM: a read must \
                          meet at least one replica that has the write";
            return Finding::warning(Code::Consistency, subject, message, remedy);
        }
        let local_level = matches!(level, Consistency::LocalQuorum | Consistency::LocalOne);
        if local_level && self.datacenter.is_none() && factors.len() > 1 {
            let message = format!(
                "{seen} in the datacenter of whichever node is asked, and there are {}",
                factors.len()
            );
            let remedy = "set scylla.datacenter to the one in which the application writes";
            return Finding::warning(Code::Consistency, subject, message, remedy);
        }
        let message = format!("{seen}; writes to {least_write} or more are seen (R + W > RF)");
        Finding::ok(Code::Consistency, subject, message)
    }

    /// Replicas by datacenter.
    fn factors(&self, strategy: &Strategy) -> BTreeMap<String, usize> {
        match strategy {
            Strategy::NetworkTopologyStrategy {
                datacenter_repfactors,
            } => {
                // ScyllaDB resolves the short form when a keyspace is made; others keep it.
                let everywhere = datacenter_repfactors.get(EVERYWHERE);
                let everywhere = everywhere
                    .into_iter()
                    .flat_map(|n| self.nodes.keys().map(|name| (name.clone(), *n)));
                let named = datacenter_repfactors.iter();
                let named = named.filter(|(name, _)| *name != EVERYWHERE);
                everywhere
                    .chain(named.map(|(name, n)| (name.clone(), *n)))
                    .collect()
            }
            Strategy::SimpleStrategy { replication_factor } => {
                let name = self.nodes.keys().next().cloned().unwrap_or_default();
                [(name, *replication_factor)].into()
            }
            _ => BTreeMap::new(),
        }
    }
}

fn shown(factors: &BTreeMap<String, usize>) -> String {
    let shown: Vec<String> = factors
        .iter()
        .map(|(name, n)| format!("{n} in {name}"))
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use scylla::statement::Consistency::{All, LocalOne, LocalQuorum, One, Quorum, Three, Two};

    use super::super::finding::Level;
    use super::*;

    fn topology(factors: &[(&str, usize)]) -> Strategy {
        let factors = factors.iter().map(|(name, n)| ((*name).to_owned(), *n));
        Strategy::NetworkTopologyStrategy {
            datacenter_repfactors: factors.collect(),
        }
    }

    fn nodes(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
        of.iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect()
    }

    #[test]
    fn reads_must_meet_quorum_writes() {
        let nodes = nodes(&[("dc1", 3)]);
        let judge = |consistency, copies| {
            let cluster = Cluster {
                nodes: &nodes,
                datacenter: None,
                consistency,
            };
            cluster
                .consistency("ks", &topology(&[("dc1", copies)]))
                .level
        };
        for (consistency, copies, level) in [
            (LocalQuorum, 3, Level::Ok),
            (Quorum, 3, Level::Ok),
            (Two, 3, Level::Ok),
            (All, 3, Level::Ok),
            (One, 1, Level::Ok),
            (One, 3, Level::Warning),
            (LocalOne, 3, Level::Warning),
            // A quorum of two is both.
            (One, 2, Level::Ok),
            (Two, 5, Level::Warning),
            (Three, 2, Level::Error),
            (LocalQuorum, 0, Level::Error),
        ] {
            assert_eq!(
                judge(consistency, copies),
                level,
                "{consistency} of {copies}"
            );
        }
    }

    #[test]
    fn copies_are_judged_by_the_nodes_there_are() {
        let one = nodes(&[("dc1", 1)]);
        let three = nodes(&[("dc1", 3)]);
        let two_places = nodes(&[("dc1", 3), ("dc2", 3)]);
        let simple = |replication_factor| Strategy::SimpleStrategy { replication_factor };
        for (nodes, datacenter, strategy, level, word) in [
            (
                &one,
                None,
                topology(&[("dc1", 1)]),
                Level::Ok,
                "not for production",
            ),
            (
                &three,
                None,
                topology(&[("dc1", 1)]),
                Level::Warning,
                "one replica",
            ),
            (&three, None, topology(&[("dc1", 3)]), Level::Ok, "3 in dc1"),
            (&three, None, simple(3), Level::Ok, "3 in dc1"),
            (
                &two_places,
                Some("dc2"),
                topology(&[(EVERYWHERE, 3)]),
                Level::Ok,
                "3 in dc2",
            ),
            (
                &two_places,
                None,
                simple(3),
                Level::Warning,
                "SimpleStrategy",
            ),
            (&three, None, topology(&[("dc9", 3)]), Level::Warning, "dc9"),
            (
                &two_places,
                Some("dc2"),
                topology(&[("dc1", 3)]),
                Level::Error,
                "dc2",
            ),
        ] {
            let cluster = Cluster {
                nodes,
                datacenter,
                consistency: Consistency::LocalQuorum,
            };
            let found = cluster.copies("ks", &strategy);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.message.contains(word), "{found:?}");
        }
    }

    #[test]
    fn a_datacenter_must_exist_and_be_named_when_there_are_several() {
        let nodes = nodes(&[("dc1", 3), ("dc2", 3)]);
        let cluster = |datacenter| Cluster {
            nodes: &nodes,
            datacenter,
            consistency: Consistency::LocalQuorum,
        };
        assert_eq!(cluster(None).datacenter(), None);
        let level = |name| cluster(Some(name)).datacenter().map(|found| found.level);
        assert_eq!(level("dc1"), Some(Level::Ok));
        assert_eq!(level("DC1"), Some(Level::Error));
        let both = topology(&[("dc1", 3), ("dc2", 3)]);
        assert_eq!(cluster(None).consistency("ks", &both).level, Level::Warning);
        assert_eq!(
            cluster(Some("dc1")).consistency("ks", &both).level,
            Level::Ok
        );
    }
}
