//! What the system says of this process.

use prometheus_client::registry::Unit;

use super::family::{Family, Spent};

/// What the system says of this process. Zero where it does not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Process {
    started: f64,
    cpu: f64,
    resident: f64,
    open_files: f64,
}

impl Process {
    /// `started`: seconds since the Unix epoch.
    pub(super) fn look(started: f64) -> Self {
        let status = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name of the process, in parentheses, may hold blanks.
        let (_, fields) = status.rsplit_once(')').unwrap_or_default();
        let field = |index: usize| -> f64 {
            let field = fields.split_ascii_whitespace().nth(index - 3);
            field
                .and_then(|field| field.parse().ok())
                .unwrap_or_default()
        };
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        // Numbers of the fields as proc(5) counts them.
        Self {
            started,
            cpu: (field(14) + field(15)) / ticks,
            resident: field(24) * page,
            open_files: std::fs::read_dir("/proc/self/fd")
                .map_or(0.0, |files| files.count() as f64),
        }
    }

    pub(super) fn families(self) -> Vec<Family> {
        vec![
            Family::one(
                "process_start_time",
                "When the process was started, since the Unix epoch.",
                self.started,
            )
            .in_unit(Unit::Seconds)
            .of_the_process(),
            Family::one(
                "process_cpu",
                "Processor time of the process.",
                Spent(self.cpu),
            )
            .in_unit(Unit::Seconds)
            .of_the_process(),
            Family::one(
                "process_resident_memory",
                "Memory of the process.",
                self.resident,
            )
            .in_unit(Unit::Bytes)
            .of_the_process(),
            Family::one(
                "process_open_fds",
                "Files and sockets that the process has open.",
                self.open_files,
            )
            .of_the_process(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_and_open_files() {
        let process = Process::look(1.7e9);
        assert!(
            process.resident > 1e6 && process.open_files >= 3.0,
            "{process:?}"
        );
        assert!(process.cpu >= 0.0, "{process:?}");
    }
}
