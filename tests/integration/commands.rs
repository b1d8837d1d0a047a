//! Commands that need neither a broker nor a database.

use anyhow::Result;
use std::process::{Output, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_outbox-relay");

async fn run(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::null()).env_clear();
    Ok(command.output().await?)
}

/// A server that gives every request this status and body, and the paths that it is asked for.
async fn server(status: &'static str, body: &'static str) -> Result<(String, JoinSet<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => asked.push(byte),
                    Err(_) => break,
                }
            }
            let path = String::from_utf8_lossy(&asked);
            let path = path.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = body.replace("PATH", &path);
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            // The client may be gone.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((url, task))
}

/// Status and the one line of a health check.
async fn health(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = run(&[&["healthcheck"][..], arguments].concat()).await?;
    let printed = String::from_utf8(output.stdout)?;
    assert_eq!(printed.lines().count(), 1, "one line: {printed}");
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((output.status.code(), printed.trim_end().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_is_one_line_and_a_status() -> Result<()> {
    let (url, _server) = server("200 OK", "ok").await?;
    assert_eq!(
        health(&["--url", &url]).await?,
        (Some(0), "alive".to_owned())
    );
    let ready = health(&["--url", &url, "--ready"]).await?;
    assert_eq!(ready, (Some(0), "ready".to_owned()));

    let parts = r#"{"ready":false,"parts":[{"part":"Kafka","state":"failed","reason":"at PATH","for_seconds":7}]}"#;
    let (url, _server) = server("503 Service Unavailable", parts).await?;
    let (status, line) = health(&["--url", &url, "--ready"]).await?;
    assert_eq!(status, Some(1));
    assert!(
        line.ends_with("answers 503: Kafka failed (at /readyz)"),
        "{line}"
    );
    let (status, line) = health(&["--url", &url]).await?;
    assert_eq!(status, Some(1));
    assert!(line.contains("at /livez"), "{line}");

    // Nobody listens there; and a configuration that cannot be used is no other status.
    let nobody = format!("127.0.0.1:{}", crate::support::free_port()?);
    let (status, line) = health(&["--url", &nobody]).await?;
    assert_eq!(status, Some(1));
    assert!(line.contains("refused"), "{line}");
    let (status, line) = health(&["--set", "no.such.key=1"]).await?;
    assert_eq!(status, Some(1));
    assert!(line.contains("outbox-relay check"), "{line}");
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let address = silent.local_addr()?.to_string();
    let (status, line) = health(&["--url", &address, "--timeout", "100ms"]).await?;
    assert_eq!(status, Some(1));
    assert!(line.contains("does not answer within"), "{line}");
    Ok(())
}

/// Names of the commands of this one, as its help lists them.
async fn subcommands(path: &[&str]) -> Result<Vec<String>> {
    let help = run(&[path, &["--help"]].concat()).await?;
    let help = String::from_utf8(help.stdout)?;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty());
    // A line that goes on with the description is indented further.
    let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    Ok(names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_scripts_that_name_every_command() -> Result<()> {
    let commands = subcommands(&[]).await?;
    assert!(commands.len() > 8, "{commands:?}");
    let directory = tempfile::tempdir()?;
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&["completions", shell]).await?;
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8(output.stdout)?;
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell}: {command}");
        }
        let Some(checker) = (match shell {
            "bash" | "zsh" => Some("-n"),
            "fish" => Some("--no-execute"),
            _ => None,
        }) else {
            continue;
        };
        let file = directory.path().join(shell);
        std::fs::write(&file, &script)?;
        match Command::new(shell).arg(checker).arg(&file).output().await {
            Ok(parsed) => assert!(
                parsed.status.success(),
                "{shell}: {}",
                String::from_utf8_lossy(&parsed.stderr)
            ),
            Err(_) if shell != "bash" => {
                crate::support::say(&format!(
                    "completions: skipped for {shell}, which is not here"
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    // What bash offers after a part of a word.
    let bash = directory.path().join("bash");
    let offered = Command::new("bash")
        .arg("-c")
        .arg(format!(
            "source {}; COMP_WORDS=(outbox-relay check); COMP_CWORD=1; \
             $(complete -p outbox-relay | sed 's/.*-F \\([^ ]*\\).*/\\1/') outbox-relay check outbox-relay; echo \"${{COMPREPLY[@]}}\"",
            bash.display()
        ))
        .output()
        .await?;
    let offered = String::from_utf8(offered.stdout)?;
    assert_eq!(
        offered.split_whitespace().collect::<Vec<_>>(),
        ["check", "checkpoint"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_a_manual_page_that_renders() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dir = directory.path().join("man1");
    let path = dir.to_str().unwrap_or_default();
    let written = run(&["man", "--dir", path]).await?;
    assert!(
        written.status.success(),
        "{}",
        String::from_utf8_lossy(&written.stderr)
    );
    let printed = String::from_utf8(run(&["man"]).await?.stdout)?;
    let mut names = vec!["outbox-relay".to_owned()];
    for command in subcommands(&[]).await? {
        names.push(format!("outbox-relay-{command}"));
        for child in subcommands(&[&command]).await? {
            names.push(format!("outbox-relay-{command}-{child}"));
        }
    }
    assert!(
        names.contains(&"outbox-relay-checkpoint-reset".to_owned()),
        "{names:?}"
    );
    assert_eq!(std::fs::read_dir(&dir)?.count(), names.len(), "{names:?}");
    for name in &names {
        let file = dir.join(format!("{name}.1"));
        let page = std::fs::read_to_string(&file)?;
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.contains(section), "{name}: {section}");
        }
        let rendered = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-P-cbou"])
            .arg(&file)
            .output()
            .await;
        match rendered {
            Ok(rendered) => {
                let warnings = String::from_utf8_lossy(&rendered.stderr).into_owned();
                let text = String::from_utf8_lossy(&rendered.stdout).into_owned();
                assert!(
                    rendered.status.success() && warnings.is_empty(),
                    "{name}: {warnings}"
                );
                assert!(text.contains("SYNOPSIS"), "{name}: {text}");
            }
            Err(_) => crate::support::say("manual pages: not rendered, there is no groff"),
        }
    }
    assert_eq!(
        printed,
        std::fs::read_to_string(dir.join("outbox-relay.1"))?
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_reads_is_no_error() -> Result<()> {
    for arguments in [
        &["config", "reference"][..],
        &["config", "schema"],
        &["man"],
    ] {
        let mut command = Command::new(BINARY);
        command.args(arguments).env_clear().stdin(Stdio::null());
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = command.stdout(writer).output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), &*said),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_file_may_be_named_by_the_environment() -> Result<()> {
    let none = run(&["config", "print"]).await?;
    assert_eq!(none.status.code(), Some(78));
    let said = String::from_utf8(none.stderr)?;
    assert!(said.contains("no configuration file was given"), "{said}");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(
        file.path(),
        "relay: { name: named }\noutboxes: [{ table: a.b }]\n",
    )?;
    let mut command = Command::new(BINARY);
    command.args(["config", "print", "--set", "outboxes=[{table: c.d}]"]);
    command.env_clear().env("OUTBOX_RELAY_CONFIG", file.path());
    let printed = command.stdin(Stdio::null()).output().await?;
    let printed = String::from_utf8(printed.stdout)?;
    assert!(
        printed.contains("name: named") && printed.contains("table: c.d"),
        "{printed}"
    );
    Ok(())
}
