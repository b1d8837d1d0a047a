//! A broker for tests that lets nobody in: as much of Kafka's protocol as a client speaks until
//! its login is refused. (The mock cluster has no SASL.)

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

const SASL_HANDSHAKE: i16 = 17;
const API_VERSIONS: i16 = 18;
const SASL_AUTHENTICATE: i16 = 36;
const UNSUPPORTED_VERSION: i16 = 35;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

/// Where the broker listens. Its threads end with the test process.
pub(super) struct RefusingBroker {
    port: u16,
}

impl RefusingBroker {
    /// Host and port.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Starts a broker that refuses every login, and says why.
pub(super) fn refusing_broker(reason: &'static str) -> RefusingBroker {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, reason));
        }
    });
    RefusingBroker { port }
}

fn serve(mut stream: TcpStream, reason: &str) -> io::Result<()> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut request)?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let (api, version) = (number(0), number(2));
        let mut response = request[4..8].to_vec();
        match (api, version) {
            (API_VERSIONS, 0) => {
                response.extend(0_i16.to_be_bytes());
                response.extend(versions());
            }
            (API_VERSIONS, _) => {
                // "Ask again with version 0", in the format of version 0.
                response.extend(UNSUPPORTED_VERSION.to_be_bytes());
                response.extend(versions());
            }
            (SASL_HANDSHAKE, _) => {
                response.extend(0_i16.to_be_bytes());
                response.extend(1_i32.to_be_bytes());
                response.extend(text("PLAIN"));
            }
            (SASL_AUTHENTICATE, _) => {
                response.extend(SASL_AUTHENTICATION_FAILED.to_be_bytes());
                response.extend(text(reason));
                response.extend(0_i32.to_be_bytes());
            }
            _ => return Ok(()),
        }
        stream.write_all(&(response.len() as u32).to_be_bytes())?;
        stream.write_all(&response)?;
        if api == SASL_AUTHENTICATE {
            return Ok(());
        }
    }
}

/// What the broker claims to understand: each request with its lowest and highest version.
fn versions() -> Vec<u8> {
    let all = [
        (SASL_HANDSHAKE, 0_i16, 1_i16),
        (API_VERSIONS, 0, 0),
        (SASL_AUTHENTICATE, 0, 0),
    ];
    let mut bytes = (all.len() as u32).to_be_bytes().to_vec();
    for (api, lowest, highest) in all {
        for number in [api, lowest, highest] {
            bytes.extend(number.to_be_bytes());
        }
    }
    bytes
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}
