//! The `outbox-relay` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    outbox_relay::cli::main()
}
