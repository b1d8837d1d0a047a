//! Log files: written by a thread of their own, and never a reason to stop.
//!
//! Invariants:
//!
//! 1. Nobody waits for a log file: lines pass through a queue of [`QUEUED_LINES`], and at that
//!    limit they are lost.
//! 2. A line that cannot be written is lost; that lines are lost is said on standard error, at
//!    most once in [`REPORT_EVERY`].

use std::io::{self, Write};
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{InitError, RollingFileAppender, Rotation};

use crate::config::{LogFile, LogRotation};

/// Lines that wait for the disk: some MiB, and enough for a disk that is slow for some seconds.
const QUEUED_LINES: usize = 16_384;
/// Pause between two reports of lost lines.
const REPORT_EVERY: Duration = Duration::from_mins(10);

/// Opens the log files that are configured.
pub(super) fn open(file: &LogFile) -> Result<(NonBlocking, WorkerGuard), InitError> {
    let rotation = match file.rotation {
        LogRotation::Hourly => Rotation::HOURLY,
        LogRotation::Daily => Rotation::DAILY,
        LogRotation::Never => Rotation::NEVER,
    };
    let appender = RollingFileAppender::builder()
        .rotation(rotation)
        .filename_prefix("outbox-relay")
        .filename_suffix("log")
        .max_log_files(file.keep.get())
        .build(&file.dir)?;
    Ok(queued(appender, QUEUED_LINES))
}

/// A queue before `writer`, and the thread that empties it.
pub(super) fn queued(
    writer: impl Write + Send + 'static,
    lines: usize,
) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(lines)
        .thread_name("log-files")
        .finish(Lossy::new(writer))
}

/// Takes every line, and loses those that its writer does not take.
struct Lossy<W> {
    writer: W,
    /// Lines lost since the last report.
    lost: u64,
    reported: Option<Instant>,
}

impl<W> Lossy<W> {
    fn new(writer: W) -> Self {
        Self {
            writer,
            lost: 0,
            reported: None,
        }
    }

    fn lose(&mut self, error: &io::Error) {
        self.lost += 1;
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            // It goes to the files as well, which costs at most one more line.
            tracing::error!(
                %error,
                lost = self.lost,
                "log files cannot be written, see log.file.dir: lines are lost, the relay goes on"
            );
            self.reported = Some(Instant::now());
            self.lost = 0;
        }
    }
}

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.writer.write_all(line) {
            Ok(()) => {}
            Err(error) => self.lose(&error),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Err(error) = self.writer.flush() {
            self.lose(&error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::{filter, formed};
    use super::*;
    use crate::config::LogFormat;

    /// Logs `lines` lines through the layers of a relay whose log files are `writer`.
    fn log(lines: usize, writer: impl Write + Send + 'static, queue: usize) -> WorkerGuard {
        let (writer, guard) = queued(writer, queue);
        let layers = vec![formed(writer, LogFormat::Json)];
        let subscriber = tracing_subscriber::registry()
            .with(layers)
            .with(filter::parse("info").expect("a filter"));
        tracing::subscriber::with_default(subscriber, || {
            for line in 0..lines {
                tracing::info!(line, "a line");
            }
        });
        guard
    }

    /// A disk that takes what `open` takes, and counts what was tried.
    struct Disk {
        file: File,
        tried: Arc<Mutex<u64>>,
    }

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            *self.tried.lock().expect("no panic") += 1;
            self.file.write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.file.flush()
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn on_a_full_disk_lines_are_lost_and_logging_goes_on() {
        let full = File::options().write(true).open("/dev/full");
        let tried = Arc::new(Mutex::new(0));
        let disk = Disk {
            file: full.expect("it is there"),
            tried: Arc::clone(&tried),
        };
        drop(log(1_000, disk, QUEUED_LINES));
        // The thread has seen every error and has not ended at one.
        assert_eq!(*tried.lock().expect("no panic"), 1_000);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_standard_error_is_no_reason_to_panic() {
        let full = || {
            File::options()
                .write(true)
                .open("/dev/full")
                .expect("there")
        };
        let layers = vec![formed(full, LogFormat::Text)];
        let subscriber = tracing_subscriber::registry().with(layers);
        tracing::subscriber::with_default(subscriber, || tracing::info!("a line"));
    }

    /// A disk that answers only when it is let go.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // An error means that it was let go.
            let _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_disk_blocks_nobody() {
        let (let_go, stuck) = mpsc::channel();
        let guard = log(1_000, Stuck(stuck), 10);
        drop(let_go);
        drop(guard);
    }

    #[test]
    fn lost_lines_are_reported_rarely() {
        let mut lossy = Lossy::new(io::sink());
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for _ in 0..5 {
            lossy.lose(&full);
        }
        assert_eq!(lossy.lost, 4);
        lossy.reported = Instant::now().checked_sub(REPORT_EVERY);
        lossy.lose(&full);
        assert_eq!(lossy.lost, 0);
    }

    #[test]
    fn files_are_dated_and_the_oldest_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let within = |name: &str| folder.path().join(name);
        // Files are told apart by when they were made, on a coarse clock.
        let mut made = std::time::UNIX_EPOCH;
        for day in 1..=5 {
            let file = within(&format!("outbox-relay.2026-01-0{day}.log"));
            let created = || std::fs::metadata(&file).and_then(|of| of.created());
            let before = made;
            while made <= before {
                let _ = std::fs::remove_file(&file);
                std::fs::write(&file, "old").expect("a file");
                made = created().expect("a time");
            }
        }
        std::fs::write(within("notes.txt"), "not a log").expect("a file");
        let file = LogFile {
            dir: folder.path().to_owned(),
            rotation: LogRotation::Daily,
            keep: 3.try_into().expect("not zero"),
        };
        let (mut writer, guard) = open(&file).expect("a file");
        writer.write_all(b"a line\n").expect("a queue");
        drop(guard);
        let entries = std::fs::read_dir(folder.path()).expect("a folder");
        let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        assert_eq!(names.len(), 4, "three logs and what is none: {names:?}");
        assert_eq!(names[0], "notes.txt");
        assert_eq!(names[2], "outbox-relay.2026-01-05.log");
        let newest = std::fs::read_to_string(folder.path().join(&names[3]));
        assert_eq!(newest.expect("a file"), "a line\n");
    }
}
