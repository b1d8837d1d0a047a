//! Tables that a person has paused.
//!
//! Invariants:
//!
//! 1. A paused table starts no read; what was read is still published and saved.
//! 2. A pause outlives a restart of the table's source and a reload, and ends with the process.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// The paused tables of a relay. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Pauses(watch::Sender<BTreeSet<String>>);

impl Pauses {
    /// Pauses a table, or resumes it; says whether that changed anything.
    pub fn set(&self, table: &str, paused: bool) -> bool {
        self.0.send_if_modified(|tables| {
            if paused {
                tables.insert(table.to_owned())
            } else {
                tables.remove(table)
            }
        })
    }

    /// Whether a table is paused.
    pub fn is_paused(&self, table: &str) -> bool {
        self.0.borrow().contains(table)
    }

    /// What the source of a table listens to.
    pub fn of(&self, table: &str) -> Pause {
        Pause {
            table: table.to_owned(),
            tables: Some(self.0.subscribe()),
        }
    }
}

/// Whether one table is paused. The default one never is.
#[derive(Debug, Clone, Default)]
pub struct Pause {
    table: String,
    tables: Option<watch::Receiver<BTreeSet<String>>>,
}

impl Pause {
    /// Whether the table is paused now.
    pub fn is_paused(&self) -> bool {
        let tables = self.tables.as_ref();
        tables.is_some_and(|tables| tables.borrow().contains(&self.table))
    }

    /// Some table was paused or resumed. Cancel-safe.
    pub async fn changed(&mut self) {
        if let Some(tables) = &mut self.tables
            && tables.changed().await.is_ok()
        {
            return;
        }
        // Nobody can change it any more.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_table_is_paused_until_it_is_resumed() {
        let pauses = Pauses::default();
        let (mut one, other) = (pauses.of("shop.a"), pauses.of("shop.b"));
        assert!(pauses.set("shop.a", true));
        assert!(!pauses.set("shop.a", true), "it is paused already");
        one.changed().await;
        assert!(one.is_paused() && pauses.is_paused("shop.a") && !other.is_paused());
        assert!(pauses.set("shop.a", false));
        one.changed().await;
        assert!(!one.is_paused());
        drop(pauses);
        assert!(
            one.changed().now_or_never().is_none(),
            "nothing comes any more"
        );
    }
}
