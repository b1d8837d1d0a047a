//! CQL text into [`ast`](crate::ast), with `winnow`: a lexer, then parsers over its tokens.
//!
//! Invariants:
//! 1. No input panics or overflows the stack: brackets and types nest to [`MAX_DEPTH`] at most.
//! 2. The whole text is one statement (and an optional `;`), or there is an error that names the
//!    line, the column and the token that could not be understood.

mod ddl;
mod lexer;
mod modify;
mod select;
mod terms;
#[cfg(test)]
mod tests;

use winnow::combinator::{alt, opt, separated};
use winnow::error::ParserError;
use winnow::prelude::*;
use winnow::stream::{Stream, TokenSlice};

use crate::ast::{Name, Statement};
use crate::error::Error;
use lexer::{Kind, Token};

/// How deep brackets and types may nest.
pub const MAX_DEPTH: usize = 32;

type Tokens<'t> = TokenSlice<'t, Token>;
type Parsed<T> = Result<T, Failure>;

/// Where a parser stopped. Of several failures the one that got farthest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// Tokens left.
    remaining: usize,
    /// What to say in place of "no viable alternative".
    message: Option<String>,
}

impl<'t> ParserError<Tokens<'t>> for Failure {
    type Inner = Self;

    fn from_input(input: &Tokens<'t>) -> Self {
        Self {
            remaining: input.eof_offset(),
            message: None,
        }
    }

    fn or(self, other: Self) -> Self {
        if other.remaining < self.remaining {
            other
        } else {
            self
        }
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

/// Words that cannot be names unless quoted.
const RESERVED: &[&str] = &[
    "add",
    "allow",
    "alter",
    "and",
    "apply",
    "asc",
    "authorize",
    "batch",
    "begin",
    "by",
    "columnfamily",
    "create",
    "delete",
    "desc",
    "describe",
    "drop",
    "entries",
    "execute",
    "from",
    "full",
    "grant",
    "if",
    "in",
    "index",
    "infinity",
    "insert",
    "into",
    "is",
    "keyspace",
    "limit",
    "materialized",
    "modify",
    "nan",
    "norecursive",
    "not",
    "null",
    "of",
    "on",
    "or",
    "order",
    "primary",
    "rename",
    "replace",
    "revoke",
    "schema",
    "select",
    "set",
    "table",
    "to",
    "token",
    "truncate",
    "unlogged",
    "update",
    "use",
    "using",
];

/// Parses one statement.
pub fn parse(cql: &str) -> Result<Statement, Error> {
    let tokens = lexer::tokens(cql).map_err(|at| {
        let (line, column) = line_and_column(cql, at);
        let found = cql[at..].chars().next().unwrap_or(' ');
        Error::syntax(format!(
            "line {line}:{column} no viable alternative at character '{found}'"
        ))
    })?;
    check_depth(cql, &tokens)?;
    let mut input = TokenSlice::new(&tokens);
    let failure = match statement(&mut input) {
        Ok(statement) => {
            while opt(sign(";"))
                .parse_next(&mut input)
                .is_ok_and(|found| found.is_some())
            {}
            if input.is_empty() {
                return Ok(statement);
            }
            Failure::from_input(&input)
        }
        Err(failure) => failure,
    };
    Err(syntax_error(cql, &tokens, failure))
}

fn statement(input: &mut Tokens<'_>) -> Parsed<Statement> {
    alt((
        select::select,
        modify::modification.map(|modify| Statement::Modify(Box::new(modify))),
        modify::batch,
        ddl::statement,
    ))
    .parse_next(input)
}

fn syntax_error(cql: &str, tokens: &[Token], failure: Failure) -> Error {
    let at = tokens.len() - failure.remaining.min(tokens.len());
    let (offset, found) = match tokens.get(at) {
        Some(token) => (token.offset, &cql[token.offset..token.end]),
        None => (cql.len(), "<EOF>"),
    };
    let (line, column) = line_and_column(cql, offset);
    match failure.message {
        Some(message) => Error::syntax(format!("line {line}:{column} {message}")),
        None => Error::syntax(format!(
            "line {line}:{column} no viable alternative at input '{found}'"
        )),
    }
}

/// Lines count from one, columns from zero.
fn line_and_column(cql: &str, offset: usize) -> (usize, usize) {
    let before = &cql[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count();
    (line, column)
}

fn check_depth(cql: &str, tokens: &[Token]) -> Result<(), Error> {
    let mut depth = 0_usize;
    for token in tokens {
        match token.kind {
            Kind::Sign("(" | "[" | "{") => depth += 1,
            Kind::Sign(")" | "]" | "}") => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let (line, column) = line_and_column(cql, token.offset);
            return Err(Error::syntax(format!(
                "line {line}:{column} nested too deeply"
            )));
        }
    }
    Ok(())
}

/// One token for which `accept` gives a value.
fn token<'t, T>(accept: impl Fn(&'t Token) -> Option<T>) -> impl Fn(&mut Tokens<'t>) -> Parsed<T> {
    move |input| {
        let start = input.checkpoint();
        if let Some(token) = input.next_token()
            && let Some(value) = accept(token)
        {
            return Ok(value);
        }
        input.reset(&start);
        Err(Failure::from_input(input))
    }
}

/// A keyword.
fn kw<'t>(word: &'static str) -> impl Fn(&mut Tokens<'t>) -> Parsed<()> {
    token(move |token| matches!(&token.kind, Kind::Word(found) if found == word).then_some(()))
}

/// Keywords, one after the other.
fn kws<'t>(words: &'static [&'static str]) -> impl Fn(&mut Tokens<'t>) -> Parsed<()> {
    move |input| {
        let start = input.checkpoint();
        for word in words {
            if let Err(failure) = kw(word)(input) {
                input.reset(&start);
                return Err(failure);
            }
        }
        Ok(())
    }
}

/// An operator or bracket.
fn sign<'t>(text: &'static str) -> impl Fn(&mut Tokens<'t>) -> Parsed<()> {
    token(move |token| (token.kind == Kind::Sign(text)).then_some(()))
}

/// A name: any word that is not reserved, or a quoted one.
fn ident(input: &mut Tokens<'_>) -> Parsed<String> {
    token(|token| match &token.kind {
        Kind::Word(word)
            if !RESERVED.contains(&word.as_str())
                && !matches!(word.as_str(), "view" | "where" | "with") =>
        {
            Some(word.clone())
        }
        Kind::Quoted(name) => Some(name.clone()),
        _ => None,
    })(input)
}

/// `name` or `keyspace.name`.
fn name(input: &mut Tokens<'_>) -> Parsed<Name> {
    let first = ident(input)?;
    if opt(sign(".")).parse_next(input)?.is_some() {
        let name = ident(input)?;
        return Ok(Name {
            keyspace: Some(first),
            name,
        });
    }
    Ok(Name {
        keyspace: None,
        name: first,
    })
}

/// One or more, between commas.
fn list1<'t, T>(
    item: impl FnMut(&mut Tokens<'t>) -> Parsed<T>,
) -> impl FnMut(&mut Tokens<'t>) -> Parsed<Vec<T>> {
    let mut item = item;
    move |input| separated(1.., item.by_ref(), sign(",")).parse_next(input)
}

/// `IF NOT EXISTS`
fn if_not_exists(input: &mut Tokens<'_>) -> Parsed<bool> {
    Ok(opt(kws(&["if", "not", "exists"]))
        .parse_next(input)?
        .is_some())
}

/// `IF EXISTS`
fn if_exists(input: &mut Tokens<'_>) -> Parsed<bool> {
    Ok(opt(kws(&["if", "exists"])).parse_next(input)?.is_some())
}
