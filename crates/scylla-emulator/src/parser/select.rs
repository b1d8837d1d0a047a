//! `SELECT`.

use winnow::combinator::{alt, delimited, opt, preceded, separated};
use winnow::error::ParserError;
use winnow::prelude::*;

use super::terms::{term, type_name, where_clause};
use super::{Failure, MAX_DEPTH, Parsed, Tokens, ident, kw, kws, list1, name, sign};
use crate::ast::{Name, Select, SelectItem, Selector, Statement};

pub(super) fn select(input: &mut Tokens<'_>) -> Parsed<Statement> {
    kw("select")(input)?;
    // `json` and `distinct` are not reserved: they are columns when nothing else follows.
    let json = opt((
        kw("json"),
        winnow::combinator::not(alt((sign(","), kw("from"), sign("(")))),
    ))
    .parse_next(input)?
    .is_some();
    let distinct = opt((
        kw("distinct"),
        winnow::combinator::not(alt((sign(","), kw("from")))),
    ))
    .parse_next(input)?
    .is_some();
    let items = alt((sign("*").map(|()| Vec::new()), list1(item))).parse_next(input)?;
    kw("from")(input)?;
    let mut select = Select {
        table: name(input)?,
        json,
        distinct,
        items,
        relations: where_clause(input)?,
        group_by: Vec::new(),
        order_by: Vec::new(),
        per_partition_limit: None,
        limit: None,
        allow_filtering: false,
        timeout: None,
    };
    if opt(kws(&["group", "by"])).parse_next(input)?.is_some() {
        select.group_by = list1(ident)(input)?;
    }
    if opt(kws(&["order", "by"])).parse_next(input)?.is_some() {
        select.order_by = list1(ordering)(input)?;
    }
    if opt(kws(&["per", "partition", "limit"]))
        .parse_next(input)?
        .is_some()
    {
        select.per_partition_limit = Some(term(input)?);
    }
    if opt(kw("limit")).parse_next(input)?.is_some() {
        select.limit = Some(term(input)?);
    }
    select.allow_filtering = opt(kws(&["allow", "filtering"]))
        .parse_next(input)?
        .is_some();
    opt(kws(&["bypass", "cache"])).parse_next(input)?;
    if opt(kws(&["using", "timeout"])).parse_next(input)?.is_some() {
        select.timeout = Some(term(input)?);
    }
    Ok(Statement::Select(Box::new(select)))
}

/// `column [ASC | DESC]`; true for descending.
pub(super) fn ordering(input: &mut Tokens<'_>) -> Parsed<(String, bool)> {
    let direction = opt(alt((kw("asc").map(|()| false), kw("desc").map(|()| true))));
    (ident, direction.map(Option::unwrap_or_default)).parse_next(input)
}

fn item(input: &mut Tokens<'_>) -> Parsed<SelectItem> {
    let selector = selector(input)?;
    let alias = opt(preceded(kw("as"), ident)).parse_next(input)?;
    Ok(SelectItem { selector, alias })
}

fn selector(input: &mut Tokens<'_>) -> Parsed<Selector> {
    let mut selector =
        alt((count, cast, function, ident.map(Selector::Column))).parse_next(input)?;
    for _ in 0..MAX_DEPTH {
        if opt(sign(".")).parse_next(input)?.is_none() {
            break;
        }
        selector = Selector::Field(Box::new(selector), ident(input)?);
    }
    Ok(selector)
}

/// `COUNT(*)` or `COUNT(1)`.
fn count(input: &mut Tokens<'_>) -> Parsed<Selector> {
    let one =
        super::token(|token| (token.kind == super::lexer::Kind::Integer("1".into())).then_some(()));
    (
        kw("count"),
        delimited(sign("("), alt((sign("*"), one)), sign(")")),
    )
        .map(|_| Selector::CountRows)
        .parse_next(input)
}

fn cast(input: &mut Tokens<'_>) -> Parsed<Selector> {
    (
        kw("cast"),
        sign("("),
        selector,
        kw("as"),
        type_name,
        sign(")"),
    )
        .map(|((), (), selector, (), ty, ())| Selector::Cast(Box::new(selector), ty))
        .parse_next(input)
}

fn function(input: &mut Tokens<'_>) -> Parsed<Selector> {
    let name = alt((
        kw("token").map(|()| Name {
            keyspace: None,
            name: "token".into(),
        }),
        name,
    ))
    .parse_next(input)?;
    if name.name == "cast" {
        // It has its own syntax; a second attempt per level would take exponential time.
        return Err(Failure::from_input(input));
    }
    sign("(")(input)?;
    let arguments = separated(0.., argument, sign(",")).parse_next(input)?;
    sign(")")(input)?;
    Ok(Selector::Function(name, arguments))
}

fn argument(input: &mut Tokens<'_>) -> Parsed<Selector> {
    let value = |input: &mut Tokens<'_>| -> Parsed<Selector> {
        match term(input)? {
            crate::ast::Term::Function(..) => Err(Failure::from_input(input)),
            other => Ok(Selector::Term(other)),
        }
    };
    alt((value, selector)).parse_next(input)
}
