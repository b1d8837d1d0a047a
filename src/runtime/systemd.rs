//! What systemd is told of a `Type=notify` service. Elsewhere all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Pause between two words to systemd where it does not watch.
const UNWATCHED: Duration = Duration::from_secs(10);

/// Tells systemd how the service fares.
#[derive(Debug)]
pub(super) struct Systemd {
    watched: bool,
    /// How often [`Systemd::beat`] is to be called: half of what systemd waits for.
    pub(super) every: Duration,
    told: Option<String>,
}

impl Systemd {
    /// As the environment says.
    pub(super) fn new() -> Self {
        let watchdog = sd_notify::watchdog_enabled();
        Self {
            watched: watchdog.is_some(),
            every: watchdog
                .map_or(UNWATCHED, |limit| limit / 2)
                .max(Duration::from_millis(1)),
            told: None,
        }
    }

    /// The process has come up: it is configured, listens for signals, and connects.
    pub(super) fn ready() {
        Self::send(&[NotifyState::Ready]);
    }

    /// It lives. `status` is a line for `systemctl status`.
    pub(super) fn beat(&mut self, status: &str) {
        if self.watched {
            Self::send(&[NotifyState::Watchdog]);
        }
        if self.told.as_deref() != Some(status) {
            Self::send(&[NotifyState::Status(status)]);
            self.told = Some(status.to_owned());
        }
    }

    /// The configuration is being read again; [`Systemd::ready`] says that this is done.
    pub(super) fn reloading() {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            Self::send(&[NotifyState::Reloading, now]);
        }
    }

    /// A stop has begun.
    pub(super) fn stopping() {
        Self::send(&[NotifyState::Stopping]);
    }

    fn send(state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            // The service manager may be restarting; it hears the next one.
            tracing::debug!(%error, "tell systemd");
        }
    }
}
