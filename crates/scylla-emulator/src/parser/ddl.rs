//! Statements that change the schema, `USE` and `TRUNCATE`.

use winnow::combinator::{alt, delimited, opt, preceded, separated};
use winnow::error::ParserError;
use winnow::prelude::*;

use super::lexer::Kind;
use super::select::ordering;
use super::terms::{literal, type_name};
use super::{
    Failure, Parsed, Tokens, ident, if_exists, if_not_exists, kw, kws, list1, name, sign, token,
};
use crate::ast::{
    ColumnDef, CreateTable, Literal, Properties, Property, Statement, TableChange, TypeChange,
    TypeName,
};

pub(super) fn statement(input: &mut Tokens<'_>) -> Parsed<Statement> {
    alt((
        preceded(kw("use"), ident).map(Statement::Use),
        preceded((kw("truncate"), opt(table_word)), name).map(Statement::Truncate),
        preceded(kw("create"), create),
        preceded(kw("alter"), alter),
        preceded(kw("drop"), drop),
        other,
    ))
    .parse_next(input)
}

fn table_word(input: &mut Tokens<'_>) -> Parsed<()> {
    alt((kw("table"), kw("columnfamily"))).parse_next(input)
}

fn keyspace_word(input: &mut Tokens<'_>) -> Parsed<()> {
    alt((kw("keyspace"), kw("schema"))).parse_next(input)
}

/// Known statements that the emulator does not do: the rest of the text does not matter.
/// `DESCRIBE` is not among them: version 5.1 does not know it, and cqlsh falls back on its own upon a syntax error.
fn other(input: &mut Tokens<'_>) -> Parsed<Statement> {
    let what = alt((
        kw("grant").map(|()| "GRANT"),
        kw("revoke").map(|()| "REVOKE"),
        kw("list").map(|()| "LIST"),
        kw("prune").map(|()| "PRUNE"),
        kw("attach").map(|()| "ATTACH SERVICE LEVEL"),
        kw("detach").map(|()| "DETACH SERVICE LEVEL"),
    ))
    .parse_next(input)?;
    Ok(unsupported(input, what))
}

fn unsupported(input: &mut Tokens<'_>, what: &'static str) -> Statement {
    while token(|_| Some(()))(input).is_ok() {}
    Statement::Unsupported(what)
}

/// What `CREATE`, `ALTER` and `DROP` know beside keyspaces, tables and types.
fn other_object(input: &mut Tokens<'_>) -> Parsed<Statement> {
    let what = alt((
        (opt(kw("custom")), opt(kw("local")), kw("index")).map(|_| "CREATE, ALTER or DROP INDEX"),
        kw("materialized").map(|()| "A materialized view"),
        alt((kw("role"), kw("user"))).map(|()| "CREATE, ALTER or DROP ROLE"),
        (opt(kws(&["or", "replace"])), kw("function")).map(|_| "A user-defined function"),
        (opt(kws(&["or", "replace"])), kw("aggregate")).map(|_| "A user-defined aggregate"),
        kw("trigger").map(|()| "A trigger"),
        alt((kw("service"), kw("service_level"))).map(|()| "A service level"),
    ))
    .parse_next(input)?;
    Ok(unsupported(input, what))
}

fn create(input: &mut Tokens<'_>) -> Parsed<Statement> {
    alt((create_keyspace, create_table, create_type, other_object)).parse_next(input)
}

fn create_keyspace(input: &mut Tokens<'_>) -> Parsed<Statement> {
    keyspace_word(input)?;
    let if_not_exists = if_not_exists(input)?;
    let name = ident(input)?;
    let properties = with_properties(input)?;
    Ok(Statement::CreateKeyspace {
        name,
        if_not_exists,
        properties,
    })
}

fn with_properties(input: &mut Tokens<'_>) -> Parsed<Properties> {
    kw("with")(input)?;
    separated(1.., property, kw("and")).parse_next(input)
}

fn property(input: &mut Tokens<'_>) -> Parsed<(String, Property)> {
    let name = ident(input)?;
    sign("=")(input)?;
    let value = alt((map.map(Property::Map), constant.map(Property::Text))).parse_next(input)?;
    Ok((name, value))
}

fn map(input: &mut Tokens<'_>) -> Parsed<Vec<(String, String)>> {
    let entry = (constant, preceded(sign(":"), constant));
    delimited(sign("{"), separated(0.., entry, sign(",")), sign("}")).parse_next(input)
}

/// A constant as text.
fn constant(input: &mut Tokens<'_>) -> Parsed<String> {
    let word = |input: &mut Tokens<'_>| {
        token(|token| match &token.kind {
            Kind::Word(word) => Some(word.clone()),
            _ => None,
        })(input)
    };
    let literal = literal.verify_map(|literal| {
        Some(match literal {
            Literal::Text(text)
            | Literal::Integer(text)
            | Literal::Float(text)
            | Literal::Duration(text) => text,
            Literal::Boolean(flag) => flag.to_string(),
            Literal::Uuid(uuid) => uuid.to_string(),
            Literal::Hex(digits) => format!("0x{digits}"),
            Literal::Null => return None,
        })
    });
    alt((literal, word)).parse_next(input)
}

/// One thing between the parentheses of `CREATE TABLE`.
enum Part {
    Column(ColumnDef),
    Key(Vec<String>, Vec<String>),
}

fn create_table(input: &mut Tokens<'_>) -> Parsed<Statement> {
    table_word(input)?;
    let if_not_exists = if_not_exists(input)?;
    let mut create = CreateTable {
        table: name(input)?,
        if_not_exists,
        columns: Vec::new(),
        primary_keys: Vec::new(),
        clustering_order: Vec::new(),
        compact_storage: false,
        properties: Vec::new(),
    };
    sign("(")(input)?;
    loop {
        let part = alt((
            primary_key.map(|(partition, clustering)| Part::Key(partition, clustering)),
            column_def.map(Part::Column),
        ))
        .parse_next(input)?;
        match part {
            Part::Column(column) => create.columns.push(column),
            Part::Key(partition, clustering) => create.primary_keys.push((partition, clustering)),
        }
        if opt(sign(",")).parse_next(input)?.is_none() {
            break;
        }
    }
    sign(")")(input)?;
    if opt(kw("with")).parse_next(input)?.is_some() {
        loop {
            table_option(input, &mut create)?;
            if opt(kw("and")).parse_next(input)?.is_none() {
                break;
            }
        }
    }
    Ok(Statement::CreateTable(Box::new(create)))
}

fn table_option(input: &mut Tokens<'_>, create: &mut CreateTable) -> Parsed<()> {
    if opt(kws(&["compact", "storage"]))
        .parse_next(input)?
        .is_some()
    {
        create.compact_storage = true;
    } else if opt(kws(&["clustering", "order", "by"]))
        .parse_next(input)?
        .is_some()
    {
        sign("(")(input)?;
        create.clustering_order = list1(ordering)(input)?;
        sign(")")(input)?;
    } else {
        create.properties.push(property(input)?);
    }
    Ok(())
}

fn column_def(input: &mut Tokens<'_>) -> Parsed<ColumnDef> {
    let (name, ty) = (ident, type_name).parse_next(input)?;
    let is_static = opt(kw("static")).parse_next(input)?.is_some();
    let primary_key = opt(kws(&["primary", "key"])).parse_next(input)?.is_some();
    Ok(ColumnDef {
        name,
        ty,
        is_static,
        primary_key,
    })
}

fn primary_key(input: &mut Tokens<'_>) -> Parsed<(Vec<String>, Vec<String>)> {
    kws(&["primary", "key"])(input)?;
    sign("(")(input)?;
    let partition = alt((
        delimited(sign("("), list1(ident), sign(")")),
        ident.map(|column| vec![column]),
    ))
    .parse_next(input)?;
    let clustering = match opt(sign(",")).parse_next(input)? {
        Some(()) => list1(ident)(input)?,
        None => Vec::new(),
    };
    sign(")")(input)?;
    Ok((partition, clustering))
}

fn create_type(input: &mut Tokens<'_>) -> Parsed<Statement> {
    kw("type")(input)?;
    let if_not_exists = if_not_exists(input)?;
    let name = name(input)?;
    let fields = delimited(sign("("), list1(field), sign(")")).parse_next(input)?;
    Ok(Statement::CreateType {
        name,
        if_not_exists,
        fields,
    })
}

fn field(input: &mut Tokens<'_>) -> Parsed<(String, TypeName)> {
    (ident, type_name).parse_next(input)
}

fn alter(input: &mut Tokens<'_>) -> Parsed<Statement> {
    alt((alter_keyspace, alter_table, alter_type, other_object)).parse_next(input)
}

fn alter_keyspace(input: &mut Tokens<'_>) -> Parsed<Statement> {
    keyspace_word(input)?;
    let name = ident(input)?;
    Ok(Statement::AlterKeyspace {
        name,
        properties: with_properties(input)?,
    })
}

fn renames(input: &mut Tokens<'_>) -> Parsed<Vec<(String, String)>> {
    separated(1.., (ident, preceded(kw("to"), ident)), kw("and")).parse_next(input)
}

fn alter_table(input: &mut Tokens<'_>) -> Parsed<Statement> {
    table_word(input)?;
    let table = name(input)?;
    let parenthesized = |input: &mut Tokens<'_>| -> Parsed<Vec<ColumnDef>> {
        delimited(sign("("), list1(column_def), sign(")")).parse_next(input)
    };
    let dropped = |input: &mut Tokens<'_>| -> Parsed<Vec<String>> {
        alt((delimited(sign("("), list1(ident), sign(")")), list1(ident))).parse_next(input)
    };
    let change = alt((
        preceded(kw("add"), alt((parenthesized, list1(column_def)))).map(TableChange::Add),
        preceded(kw("drop"), dropped).map(TableChange::Drop),
        preceded(kw("rename"), renames).map(TableChange::Rename),
        with_properties.map(TableChange::With),
        (kw("alter"), ident, kw("type"), type_name).map(|_| TableChange::AlterType),
    ))
    .parse_next(input)?;
    Ok(Statement::AlterTable { table, change })
}

fn alter_type(input: &mut Tokens<'_>) -> Parsed<Statement> {
    kw("type")(input)?;
    let name = name(input)?;
    let change = alt((
        preceded(kw("add"), field).map(|(name, ty)| TypeChange::Add(name, ty)),
        preceded(kw("rename"), renames).map(TypeChange::Rename),
    ))
    .parse_next(input)?;
    Ok(Statement::AlterType { name, change })
}

fn drop(input: &mut Tokens<'_>) -> Parsed<Statement> {
    alt((
        (preceded(keyspace_word, if_exists), ident)
            .map(|(if_exists, name)| Statement::DropKeyspace { name, if_exists }),
        (preceded(table_word, if_exists), name)
            .map(|(if_exists, table)| Statement::DropTable { table, if_exists }),
        (preceded(kw("type"), if_exists), name)
            .map(|(if_exists, name)| Statement::DropType { name, if_exists }),
        other_object,
        |input: &mut Tokens<'_>| Err(Failure::from_input(input)),
    ))
    .parse_next(input)
}
