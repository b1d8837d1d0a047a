//! Values, types, and the conditions of `WHERE`.

use winnow::combinator::{alt, delimited, opt, preceded, separated, terminated};
use winnow::error::ParserError;
use winnow::prelude::*;

use super::lexer::{Kind, Token};
use super::{Failure, MAX_DEPTH, Parsed, Tokens, ident, kw, kws, list1, name, sign, token};
use crate::ast::{InValues, Literal, Marker, Name, Operator, Relation, Term, TypeName};

/// A type.
pub(super) fn type_name(input: &mut Tokens<'_>) -> Parsed<TypeName> {
    type_at(input, 0)
}

fn type_at(input: &mut Tokens<'_>, depth: usize) -> Parsed<TypeName> {
    if depth > MAX_DEPTH {
        let mut failure = Failure::from_input(input);
        failure.message = Some("type nested too deeply".into());
        return Err(failure);
    }
    // `set` is a reserved word and the name of a type.
    let name = match opt(kw("set")).parse_next(input)? {
        Some(()) => Name {
            keyspace: None,
            name: "set".into(),
        },
        None => name(input)?,
    };
    if name.keyspace.is_some() || opt(sign("<")).parse_next(input)?.is_none() {
        return Ok(TypeName::Named(name));
    }
    let mut inner = || type_at(input, depth + 1).map(Box::new);
    let ty = match name.name.as_str() {
        "list" => TypeName::List(inner()?),
        "set" => TypeName::Set(inner()?),
        "frozen" => TypeName::Frozen(inner()?),
        "map" => {
            let key = inner()?;
            sign(",")(input)?;
            TypeName::Map(key, Box::new(type_at(input, depth + 1)?))
        }
        "tuple" => TypeName::Tuple(list1(|input| type_at(input, depth + 1))(input)?),
        _ => return Err(Failure::from_input(input)),
    };
    sign(">")(input)?;
    Ok(ty)
}

/// `?` or `:name`.
pub(super) fn marker(input: &mut Tokens<'_>) -> Parsed<Marker> {
    let at = |text: &'static str| {
        token(move |token: &Token| (token.kind == Kind::Sign(text)).then_some(token.offset))
    };
    alt((
        at("?").map(|offset| Marker { offset, name: None }),
        (at(":"), marker_name).map(|(offset, name)| Marker {
            offset,
            name: Some(name),
        }),
    ))
    .parse_next(input)
}

/// Any word will do behind a colon.
fn marker_name(input: &mut Tokens<'_>) -> Parsed<String> {
    token(|token| match &token.kind {
        Kind::Word(word) | Kind::Quoted(word) => Some(word.clone()),
        _ => None,
    })(input)
}

/// A value.
pub(super) fn term(input: &mut Tokens<'_>) -> Parsed<Term> {
    alt((type_hint, plain_term)).parse_next(input)
}

fn plain_term(input: &mut Tokens<'_>) -> Parsed<Term> {
    alt((
        literal.map(Term::Literal),
        marker.map(Term::Marker),
        delimited(sign("["), terms0, sign("]")).map(Term::List),
        braces,
        delimited(sign("("), list1(term), sign(")")).map(Term::Tuple),
        function,
    ))
    .parse_next(input)
}

fn terms0(input: &mut Tokens<'_>) -> Parsed<Vec<Term>> {
    separated(0.., term, sign(",")).parse_next(input)
}

/// `(type) value`; not several in a row, which nothing would bound.
fn type_hint(input: &mut Tokens<'_>) -> Parsed<Term> {
    (delimited(sign("("), type_name, sign(")")), plain_term)
        .map(|(ty, term)| Term::TypeHint(ty, Box::new(term)))
        .parse_next(input)
}

fn function(input: &mut Tokens<'_>) -> Parsed<Term> {
    let name = alt((
        kw("token").map(|()| crate::ast::Name {
            keyspace: None,
            name: "token".into(),
        }),
        name,
    ))
    .parse_next(input)?;
    let arguments = delimited(sign("("), terms0, sign(")")).parse_next(input)?;
    Ok(Term::Function(name, arguments))
}

/// A set, a map or a user type's value. What follows the first element tells which: nothing is
/// parsed twice, or nested braces would take exponential time.
fn braces(input: &mut Tokens<'_>) -> Parsed<Term> {
    sign("{")(input)?;
    let items = if opt(sign("}")).parse_next(input)?.is_some() {
        return Ok(Term::Set(Vec::new()));
    } else if let Some(name) = opt(terminated(ident, sign(":"))).parse_next(input)? {
        let mut fields = vec![(name, term(input)?)];
        while opt(sign(",")).parse_next(input)?.is_some() {
            fields.push((
                terminated(ident, sign(":")).parse_next(input)?,
                term(input)?,
            ));
        }
        Term::Udt(fields)
    } else {
        let first = term(input)?;
        if opt(sign(":")).parse_next(input)?.is_some() {
            let mut entries = vec![(first, term(input)?)];
            while opt(sign(",")).parse_next(input)?.is_some() {
                entries.push((terminated(term, sign(":")).parse_next(input)?, term(input)?));
            }
            Term::Map(entries)
        } else {
            let mut items = vec![first];
            while opt(sign(",")).parse_next(input)?.is_some() {
                items.push(term(input)?);
            }
            Term::Set(items)
        }
    };
    sign("}")(input)?;
    Ok(items)
}

/// A constant.
pub(super) fn literal(input: &mut Tokens<'_>) -> Parsed<Literal> {
    if opt(sign("-")).parse_next(input)?.is_some() {
        return token(|token| {
            Some(match &token.kind {
                Kind::Integer(text) => Literal::Integer(format!("-{text}")),
                Kind::Float(text) => Literal::Float(format!("-{text}")),
                Kind::Duration(text) => Literal::Duration(format!("-{text}")),
                Kind::Word(word) if word == "nan" || word == "infinity" => {
                    Literal::Float(format!("-{word}"))
                }
                _ => return None,
            })
        })(input);
    }
    token(|token| {
        Some(match &token.kind {
            Kind::Integer(text) => Literal::Integer(text.clone()),
            Kind::Float(text) => Literal::Float(text.clone()),
            Kind::Duration(text) => Literal::Duration(text.clone()),
            Kind::Text(text) => Literal::Text(text.clone()),
            Kind::Hex(digits) => Literal::Hex(digits.clone()),
            Kind::Uuid(uuid) => Literal::Uuid(*uuid),
            Kind::Word(word) => match word.as_str() {
                "null" => Literal::Null,
                "true" => Literal::Boolean(true),
                "false" => Literal::Boolean(false),
                "nan" | "infinity" => Literal::Float(word.clone()),
                _ => return None,
            },
            Kind::Quoted(_) | Kind::Sign(_) => return None,
        })
    })(input)
}

/// `=`, `<`, …
pub(super) fn operator(input: &mut Tokens<'_>) -> Parsed<Operator> {
    token(|token| {
        Some(match token.kind {
            Kind::Sign("=") => Operator::Eq,
            Kind::Sign("<") => Operator::Lt,
            Kind::Sign("<=") => Operator::Le,
            Kind::Sign(">") => Operator::Gt,
            Kind::Sign(">=") => Operator::Ge,
            Kind::Sign("!=") => Operator::Ne,
            _ => return None,
        })
    })(input)
}

/// What follows `IN`.
pub(super) fn in_values(input: &mut Tokens<'_>) -> Parsed<InValues> {
    alt((
        marker.map(InValues::Marker),
        delimited(sign("("), terms0, sign(")")).map(InValues::List),
    ))
    .parse_next(input)
}

/// `WHERE a = 1 AND …`, when there.
pub(super) fn where_clause(input: &mut Tokens<'_>) -> Parsed<Vec<Relation>> {
    if opt(kw("where")).parse_next(input)?.is_none() {
        return Ok(Vec::new());
    }
    separated(1.., relation, kw("and")).parse_next(input)
}

fn relation(input: &mut Tokens<'_>) -> Parsed<Relation> {
    alt((
        token_relation,
        tuple_relation,
        column_relation,
        parenthesized,
    ))
    .parse_next(input)
}

fn parenthesized(input: &mut Tokens<'_>) -> Parsed<Relation> {
    delimited(sign("("), relation, sign(")")).parse_next(input)
}

fn names(input: &mut Tokens<'_>) -> Parsed<Vec<String>> {
    delimited(sign("("), list1(ident), sign(")")).parse_next(input)
}

fn token_relation(input: &mut Tokens<'_>) -> Parsed<Relation> {
    (preceded(kw("token"), names), operator, term)
        .map(|(columns, operator, term)| Relation::Token(columns, operator, term))
        .parse_next(input)
}

fn tuple_relation(input: &mut Tokens<'_>) -> Parsed<Relation> {
    let columns = names(input)?;
    if opt(kw("in")).parse_next(input)?.is_some() {
        return Ok(Relation::TupleIn(columns, in_values(input)?));
    }
    Ok(Relation::Tuple(columns, operator(input)?, term(input)?))
}

fn column_relation(input: &mut Tokens<'_>) -> Parsed<Relation> {
    let column = ident(input)?;
    if opt(kw("in")).parse_next(input)?.is_some() {
        return Ok(Relation::ColumnIn(column, in_values(input)?));
    }
    if opt(kws(&["is", "not", "null"]))
        .parse_next(input)?
        .is_some()
    {
        return Ok(Relation::IsNotNull(column));
    }
    if opt(kws(&["contains", "key"])).parse_next(input)?.is_some() {
        return Ok(Relation::Column(
            column,
            Operator::ContainsKey,
            term(input)?,
        ));
    }
    if opt(kw("contains")).parse_next(input)?.is_some() {
        return Ok(Relation::Column(column, Operator::Contains, term(input)?));
    }
    if opt(kw("like")).parse_next(input)?.is_some() {
        return Ok(Relation::Column(column, Operator::Like, term(input)?));
    }
    if opt(sign("[")).parse_next(input)?.is_some() {
        let key = term(input)?;
        sign("]")(input)?;
        return Ok(Relation::Entry(column, key, operator(input)?, term(input)?));
    }
    Ok(Relation::Column(column, operator(input)?, term(input)?))
}
