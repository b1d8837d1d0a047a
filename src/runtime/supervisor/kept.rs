//! State of a task that outlives its runs.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds a value that one run of a task at a time borrows, such as the receiving end of a queue.
#[derive(Debug)]
pub struct Kept<T>(Arc<Mutex<Option<T>>>);

/// The value is lent to another run, or an earlier run has kept it for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the task works with is gone with an earlier run")]
pub struct Gone;

impl<T> Kept<T> {
    /// Keeps `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(Some(value))))
    }

    /// Lends the value until the [`Lent`] is dropped: when a run ends, also by a panic.
    ///
    /// # Errors
    ///
    /// [`Gone`], when the value is not there.
    pub fn lend(&self) -> Result<Lent<T>, Gone> {
        let value = lock(&self.0).take().ok_or(Gone)?;
        let home = Arc::clone(&self.0);
        Ok(Lent {
            value: Some(value),
            home,
        })
    }

    /// Gives the value away: no later run gets it.
    ///
    /// # Errors
    ///
    /// [`Gone`], when the value is not there.
    pub fn take(&self) -> Result<T, Gone> {
        lock(&self.0).take().ok_or(Gone)
    }
}

/// A value on loan.
#[derive(Debug)]
pub struct Lent<T> {
    /// `None` only while it is dropped.
    value: Option<T>,
    home: Arc<Mutex<Option<T>>>,
}

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it is there until the drop")
    }
}

impl<T> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("it is there until the drop")
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        *lock(&self.home) = self.value.take();
    }
}

fn lock<T>(home: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    home.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_even_from_a_panic() {
        let kept = Kept::new(vec![1]);
        let lent = kept.lend().expect("it is there");
        assert_eq!(kept.lend().err(), Some(Gone), "one run at a time");
        drop(lent);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kept.lend().expect("it is back").push(2);
            let _lent = kept.lend().expect("it is back");
            panic!("a defect");
        }));
        assert!(panicked.is_err());
        assert_eq!(*kept.lend().expect("it is back"), [1, 2]);
        assert_eq!(kept.take(), Ok(vec![1, 2]));
        assert_eq!(kept.take(), Err(Gone));
    }
}
