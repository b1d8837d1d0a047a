//! `list`, `show` and `export`: read only.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result, bail};

use super::args::{Export, List, Show};
use crate::cli::{OutputFormat, out};
use crate::dead_letters::filter::Filter;
use crate::dead_letters::find::Find;
use crate::dead_letters::types::Types;
use crate::dead_letters::{DeadLetter, Store, view};

pub(super) async fn list(store: &Store, tables: &[String], args: &List) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut printed = 0;
    let filter = args.filter.filter();
    let mut more = false;
    let mut find = Find::new(store, tables, &filter);
    while let Some(letter) = find.next().await? {
        if printed == args.limit {
            more = true;
            break;
        }
        printed += 1;
        if printed == 1 && args.output == OutputFormat::Text {
            writeln!(out, "{}", view::heading())?;
        }
        match args.output {
            OutputFormat::Text => writeln!(out, "{}", view::line(&letter))?,
            OutputFormat::Json => {
                writeln!(out, "{}", serde_json::to_string(&view::outline(&letter))?)?;
            }
        }
    }
    out.flush()?;
    if args.output == OutputFormat::Text {
        match (printed, more) {
            (0, _) => eprintln!("no dead letters"),
            (n, true) => eprintln!("the first {n}; --limit shows more"),
            (_, false) => {}
        }
    }
    Ok(())
}

pub(super) async fn show(
    store: &Store,
    mut types: Types,
    tables: &[String],
    args: &Show,
) -> Result<()> {
    let filter = Filter {
        id: Some(args.id.clone()),
        ..Filter::default()
    };
    let mut found = Vec::new();
    let mut find = Find::new(store, tables, &filter);
    while let Some(letter) = find.next().await? {
        // It may be gone meanwhile.
        found.extend(store.get(&letter).await?);
    }
    if found.is_empty() {
        bail!("there is none of event {}", args.id);
    }
    for letter in &found {
        let row = kept(&mut types, letter).await;
        match args.output {
            OutputFormat::Text => out::line(view::page(letter, row))?,
            OutputFormat::Json => {
                out::line(serde_json::to_string_pretty(&view::whole(letter, row))?)?;
            }
        }
    }
    Ok(())
}

/// The columns of a row that could not be made a record.
async fn kept(types: &mut Types, letter: &DeadLetter) -> Option<view::Row> {
    let row = letter.row.as_ref()?;
    Some(view::row(row, types.of(&letter.table).await))
}

pub(super) async fn export(
    store: &Store,
    mut types: Types,
    tables: &[String],
    args: &Export,
) -> Result<()> {
    let mut out: Box<dyn Write> = match &args.file {
        None => Box::new(io::stdout().lock()),
        Some(path) => {
            let file = File::create_new(path);
            let file = file.with_context(|| format!("create {}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
    };
    let mut written = 0_u64;
    let filter = args.filter.filter();
    let mut find = Find::new(store, tables, &filter);
    while let Some(letter) = find.next().await? {
        let Some(letter) = store.get(&letter).await? else {
            continue;
        };
        let row = kept(&mut types, &letter).await;
        let whole = view::whole(&letter, row);
        writeln!(out, "{}", serde_json::to_string(&whole)?)?;
        written += 1;
    }
    out.flush()?;
    eprintln!("{written} dead letters exported");
    Ok(())
}
