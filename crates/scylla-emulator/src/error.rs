//! Errors as the CQL native protocol carries them: a code, a message and, for some codes, a detail.
//!
//! The texts are those of ScyllaDB wherever a client may look at them. Turning an [`Error`] into a
//! frame belongs to the protocol module, not here.

use std::fmt;

use bytes::Bytes;

/// The error codes of native protocol v4 that the emulator uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Something unexpected happened in the server.
    ServerError,
    /// The client broke the protocol.
    Protocol,
    /// Authentication failed.
    BadCredentials,
    /// Not enough replicas were alive.
    Unavailable,
    /// The coordinator is overloaded.
    Overloaded,
    /// A write timed out.
    WriteTimeout,
    /// A read timed out.
    ReadTimeout,
    /// The statement does not parse.
    Syntax,
    /// The statement is not allowed.
    Unauthorized,
    /// The statement parses and means nothing valid.
    Invalid,
    /// A keyspace's or table's configuration is wrong.
    Config,
    /// A keyspace or table exists already.
    AlreadyExists,
    /// A prepared statement's id is not known.
    Unprepared,
}

impl ErrorCode {
    /// The number on the wire.
    pub fn wire(self) -> i32 {
        match self {
            Self::ServerError => 0x0000,
            Self::Protocol => 0x000A,
            Self::BadCredentials => 0x0100,
            Self::Unavailable => 0x1000,
            Self::Overloaded => 0x1001,
            Self::WriteTimeout => 0x1100,
            Self::ReadTimeout => 0x1200,
            Self::Syntax => 0x2000,
            Self::Unauthorized => 0x2100,
            Self::Invalid => 0x2200,
            Self::Config => 0x2300,
            Self::AlreadyExists => 0x2400,
            Self::Unprepared => 0x2500,
        }
    }
}

/// What some codes carry beside the message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// [`ErrorCode::AlreadyExists`]: which keyspace, and which table (empty for a keyspace).
    AlreadyExists {
        /// The keyspace.
        keyspace: String,
        /// The table, or an empty string.
        table: String,
    },
    /// [`ErrorCode::Unprepared`]: the unknown id.
    Unprepared {
        /// The statement id that the client sent.
        id: Bytes,
    },
    /// [`ErrorCode::Unavailable`].
    Unavailable {
        /// The consistency level's number on the wire.
        consistency: u16,
        /// Replicas required.
        required: i32,
        /// Replicas alive.
        alive: i32,
    },
    /// [`ErrorCode::WriteTimeout`].
    WriteTimeout {
        /// The consistency level's number on the wire.
        consistency: u16,
        /// Acknowledgements received.
        received: i32,
        /// Acknowledgements required.
        block_for: i32,
        /// `SIMPLE`, `BATCH`, `UNLOGGED_BATCH`, `COUNTER`, `BATCH_LOG`, `CAS`, `VIEW` or `CDC`.
        write_type: &'static str,
    },
    /// [`ErrorCode::ReadTimeout`].
    ReadTimeout {
        /// The consistency level's number on the wire.
        consistency: u16,
        /// Answers received.
        received: i32,
        /// Answers required.
        block_for: i32,
        /// Whether the replica that was asked for data answered.
        data_present: bool,
    },
}

/// An error that a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The protocol's code.
    pub code: ErrorCode,
    /// The text, as ScyllaDB words it where it has such an error.
    pub message: String,
    /// What the code carries beside the message.
    pub detail: Detail,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code 0x{:04x})", self.message, self.code.wire())
    }
}

impl std::error::Error for Error {}

/// The level's number on the wire.
const LOCAL_QUORUM: u16 = 6;

impl Error {
    /// An error without a detail.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: Detail::None,
        }
    }

    /// [`ErrorCode::ServerError`].
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ServerError, message)
    }

    /// [`ErrorCode::Protocol`].
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Protocol, message)
    }

    /// [`ErrorCode::Syntax`].
    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Syntax, message)
    }

    /// [`ErrorCode::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    /// [`ErrorCode::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Config, message)
    }

    /// [`ErrorCode::Unauthorized`].
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unauthorized, message)
    }

    /// [`ErrorCode::Overloaded`], as a coordinator with too many requests says it.
    pub fn overloaded() -> Self {
        Self::new(ErrorCode::Overloaded, "Too many in flight hints: 10485760")
    }

    /// [`ErrorCode::Unavailable`]: of two replicas none is alive.
    pub fn unavailable() -> Self {
        Self {
            code: ErrorCode::Unavailable,
            message: "Cannot achieve consistency level for cl LOCAL_QUORUM. Requires 2, alive 0"
                .into(),
            detail: Detail::Unavailable {
                consistency: LOCAL_QUORUM,
                required: 2,
                alive: 0,
            },
        }
    }

    /// [`ErrorCode::ReadTimeout`]: of two replicas one has answered.
    pub fn read_timeout(keyspace: &str, table: &str) -> Self {
        Self {
            code: ErrorCode::ReadTimeout,
            message: format!(
                "Operation timed out for {keyspace}.{table} - received only 1 responses from 2 CL=LOCAL_QUORUM."
            ),
            detail: Detail::ReadTimeout {
                consistency: LOCAL_QUORUM,
                received: 1,
                block_for: 2,
                data_present: false,
            },
        }
    }

    /// [`ErrorCode::WriteTimeout`]: of two replicas one has answered. `write_type` as in
    /// [`Detail::WriteTimeout`].
    pub fn write_timeout(keyspace: &str, table: &str, write_type: &'static str) -> Self {
        Self {
            code: ErrorCode::WriteTimeout,
            message: format!(
                "Operation timed out for {keyspace}.{table} - received only 1 responses from 2 CL=LOCAL_QUORUM."
            ),
            detail: Detail::WriteTimeout {
                consistency: LOCAL_QUORUM,
                received: 1,
                block_for: 2,
                write_type,
            },
        }
    }

    /// The statement is valid CQL that the emulator does not do: [`ErrorCode::Invalid`].
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::invalid(format!("{what} is not supported by the emulator"))
    }

    /// A keyspace that exists already.
    pub fn keyspace_exists(keyspace: &str) -> Self {
        Self {
            code: ErrorCode::AlreadyExists,
            message: format!("Keyspace {keyspace} already exists"),
            detail: Detail::AlreadyExists {
                keyspace: keyspace.into(),
                table: String::new(),
            },
        }
    }

    /// A table that exists already.
    pub fn table_exists(keyspace: &str, table: &str) -> Self {
        Self {
            code: ErrorCode::AlreadyExists,
            message: format!("Cannot add already existing table {table} to keyspace {keyspace}"),
            detail: Detail::AlreadyExists {
                keyspace: keyspace.into(),
                table: table.into(),
            },
        }
    }

    /// A prepared statement that is not known (any more).
    pub fn unprepared(id: Bytes) -> Self {
        use fmt::Write as _;
        let mut hex = String::with_capacity(id.len() * 2);
        for byte in &id {
            let _ = write!(hex, "{byte:02x}");
        }
        Self {
            code: ErrorCode::Unprepared,
            message: format!(
                "No prepared statement with ID {hex} found. It may have been evicted, or the schema has changed."
            ),
            detail: Detail::Unprepared { id },
        }
    }
}
