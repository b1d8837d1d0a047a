//! `INSERT`, `UPDATE`, `DELETE` and `BATCH`.

use winnow::combinator::{alt, delimited, opt, preceded, repeat, separated};
use winnow::error::ParserError;
use winnow::prelude::*;

use super::terms::{in_values, operator, term, where_clause};
use super::{Failure, Parsed, Tokens, ident, if_exists, if_not_exists, kw, kws, list1, name, sign};
use crate::ast::{
    Action, Assignment, Batch, Condition, ConditionTest, Conditions, DeleteTarget, Modify,
    Statement, Term, Using,
};
use crate::engine::BatchKind;

pub(super) fn modification(input: &mut Tokens<'_>) -> Parsed<Modify> {
    alt((insert, update, delete)).parse_next(input)
}

pub(super) fn batch(input: &mut Tokens<'_>) -> Parsed<Statement> {
    kw("begin")(input)?;
    let kind = alt((
        kw("unlogged").map(|()| BatchKind::Unlogged),
        kw("counter").map(|()| BatchKind::Counter),
        winnow::combinator::empty.map(|()| BatchKind::Logged),
    ))
    .parse_next(input)?;
    kw("batch")(input)?;
    let using = using(input)?;
    let mut statements = Vec::new();
    while opt(kws(&["apply", "batch"])).parse_next(input)?.is_none() {
        statements.push(modification(input)?);
        opt(sign(";")).parse_next(input)?;
    }
    Ok(Statement::Batch(Batch {
        kind,
        using,
        statements,
    }))
}

fn using(input: &mut Tokens<'_>) -> Parsed<Using> {
    let mut using = Using::default();
    if opt(kw("using")).parse_next(input)?.is_none() {
        return Ok(using);
    }
    let option = |input: &mut Tokens<'_>| -> Parsed<(&'static str, Term)> {
        let which = alt((
            kw("timestamp").map(|()| "timestamp"),
            kw("ttl").map(|()| "ttl"),
            kw("timeout").map(|()| "timeout"),
        ))
        .parse_next(input)?;
        Ok((which, term(input)?))
    };
    let options: Vec<_> = separated(1.., option, kw("and")).parse_next(input)?;
    for (which, term) in options {
        match which {
            "timestamp" => using.timestamp = Some(term),
            "ttl" => using.ttl = Some(term),
            _ => using.timeout = Some(term),
        }
    }
    Ok(using)
}

fn insert(input: &mut Tokens<'_>) -> Parsed<Modify> {
    kws(&["insert", "into"])(input)?;
    let table = name(input)?;
    let action = alt((kw("json").map(|()| Action::InsertJson), insert_values)).parse_next(input)?;
    if action == Action::InsertJson {
        term(input)?;
        opt((kw("default"), alt((kw("null"), kw("unset"))))).parse_next(input)?;
    }
    let conditions = if if_not_exists(input)? {
        Conditions::IfNotExists
    } else {
        Conditions::None
    };
    Ok(Modify {
        table,
        using: using(input)?,
        action,
        conditions,
    })
}

fn insert_values(input: &mut Tokens<'_>) -> Parsed<Action> {
    let columns = delimited(sign("("), list1(ident), sign(")")).parse_next(input)?;
    kw("values")(input)?;
    let values = delimited(sign("("), list1(term), sign(")")).parse_next(input)?;
    Ok(Action::Insert(columns, values))
}

fn update(input: &mut Tokens<'_>) -> Parsed<Modify> {
    kw("update")(input)?;
    let table = name(input)?;
    let using = using(input)?;
    kw("set")(input)?;
    let assignments = list1(assignment)(input)?;
    let relations = where_clause(input)?;
    let conditions = conditions(input)?;
    Ok(Modify {
        table,
        using,
        action: Action::Update(assignments, relations),
        conditions,
    })
}

fn assignment(input: &mut Tokens<'_>) -> Parsed<(String, Assignment)> {
    let column = ident(input)?;
    let element = delimited(sign("["), term, sign("]"));
    let field = preceded(sign("."), ident);
    if let Some(key) = opt(element).parse_next(input)? {
        sign("=")(input)?;
        return Ok((column, Assignment::Element(key, term(input)?)));
    }
    if let Some(field) = opt(field).parse_next(input)? {
        sign("=")(input)?;
        return Ok((column, Assignment::Field(field, term(input)?)));
    }
    sign("=")(input)?;
    let assignment = alt((
        |input: &mut Tokens<'_>| self_operation(&column, input),
        |input: &mut Tokens<'_>| {
            let value = term(input)?;
            if opt(sign("+")).parse_next(input)?.is_none() {
                return Ok(Assignment::Set(value));
            }
            same_column(&column, input)?;
            Ok(Assignment::Prepend(value))
        },
    ))
    .parse_next(input)?;
    Ok((column, assignment))
}

/// `c + value` or `c - value` behind `c =`.
fn self_operation(column: &str, input: &mut Tokens<'_>) -> Parsed<Assignment> {
    same_column(column, input)?;
    alt((
        preceded(sign("+"), term).map(Assignment::Add),
        preceded(sign("-"), term).map(Assignment::Subtract),
    ))
    .parse_next(input)
}

fn same_column(column: &str, input: &mut Tokens<'_>) -> Parsed<()> {
    let found = ident(input)?;
    if found == column {
        return Ok(());
    }
    let mut failure = Failure::from_input(input);
    failure.message = Some(format!(
        "Only expressions of the form X = X +<value> are supported: {column}"
    ));
    Err(failure)
}

fn delete(input: &mut Tokens<'_>) -> Parsed<Modify> {
    kw("delete")(input)?;
    let targets = separated(0.., delete_target, sign(",")).parse_next(input)?;
    kw("from")(input)?;
    let table = name(input)?;
    let using = using(input)?;
    let relations = where_clause(input)?;
    let conditions = conditions(input)?;
    Ok(Modify {
        table,
        using,
        action: Action::Delete(targets, relations),
        conditions,
    })
}

fn delete_target(input: &mut Tokens<'_>) -> Parsed<(String, DeleteTarget)> {
    let column = ident(input)?;
    let target = alt((
        delimited(sign("["), term, sign("]")).map(DeleteTarget::Element),
        preceded(sign("."), ident).map(DeleteTarget::Field),
        winnow::combinator::empty.map(|()| DeleteTarget::Column),
    ))
    .parse_next(input)?;
    Ok((column, target))
}

/// `IF EXISTS`, `IF a = 1 AND …`, or nothing.
fn conditions(input: &mut Tokens<'_>) -> Parsed<Conditions> {
    if if_exists(input)? {
        return Ok(Conditions::IfExists);
    }
    if if_not_exists(input)? {
        return Ok(Conditions::IfNotExists);
    }
    if opt(kw("if")).parse_next(input)?.is_none() {
        return Ok(Conditions::None);
    }
    Ok(Conditions::If(
        separated(1.., condition, kw("and")).parse_next(input)?,
    ))
}

fn condition(input: &mut Tokens<'_>) -> Parsed<Condition> {
    let column = ident(input)?;
    let elements: Vec<Term> =
        repeat(0..=1, delimited(sign("["), term, sign("]"))).parse_next(input)?;
    let test = alt((
        preceded(kw("in"), in_values).map(ConditionTest::In),
        (operator, term).map(|(operator, term)| ConditionTest::Compare(operator, term)),
    ))
    .parse_next(input)?;
    Ok(Condition {
        column,
        element: elements.into_iter().next(),
        test,
    })
}
