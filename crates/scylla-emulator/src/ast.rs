//! Statements as they were written: names not looked up, values not typed.

use crate::engine::BatchKind;

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `SELECT`
    Select(Box<Select>),
    /// `INSERT`, `UPDATE`, `DELETE`
    Modify(Box<Modify>),
    /// `BEGIN BATCH … APPLY BATCH`
    Batch(Batch),
    /// `CREATE KEYSPACE`
    CreateKeyspace {
        /// Its name.
        name: String,
        /// `IF NOT EXISTS`
        if_not_exists: bool,
        /// `WITH …`
        properties: Properties,
    },
    /// `ALTER KEYSPACE`
    AlterKeyspace {
        /// Its name.
        name: String,
        /// `WITH …`
        properties: Properties,
    },
    /// `DROP KEYSPACE`
    DropKeyspace {
        /// Its name.
        name: String,
        /// `IF EXISTS`
        if_exists: bool,
    },
    /// `CREATE TABLE`
    CreateTable(Box<CreateTable>),
    /// `ALTER TABLE`
    AlterTable {
        /// The table.
        table: Name,
        /// What to alter.
        change: TableChange,
    },
    /// `DROP TABLE`
    DropTable {
        /// The table.
        table: Name,
        /// `IF EXISTS`
        if_exists: bool,
    },
    /// `CREATE TYPE`
    CreateType {
        /// The type.
        name: Name,
        /// `IF NOT EXISTS`
        if_not_exists: bool,
        /// Fields in order.
        fields: Vec<(String, TypeName)>,
    },
    /// `ALTER TYPE`
    AlterType {
        /// The type.
        name: Name,
        /// What to alter.
        change: TypeChange,
    },
    /// `DROP TYPE`
    DropType {
        /// The type.
        name: Name,
        /// `IF EXISTS`
        if_exists: bool,
    },
    /// `TRUNCATE`
    Truncate(Name),
    /// `USE`
    Use(String),
    /// CQL that the emulator knows of and does not do.
    Unsupported(&'static str),
}

/// `keyspace.name` or `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The keyspace, when given.
    pub keyspace: Option<String>,
    /// The name.
    pub name: String,
}

/// Options after `WITH`, in order.
pub type Properties = Vec<(String, Property)>;

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// A constant, as text.
    Text(String),
    /// A map of constants.
    Map(Vec<(String, String)>),
}

/// A type by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeName {
    /// A native type, or a user type.
    Named(Name),
    /// `list<…>`
    List(Box<TypeName>),
    /// `set<…>`
    Set(Box<TypeName>),
    /// `map<…, …>`
    Map(Box<TypeName>, Box<TypeName>),
    /// `tuple<…>`
    Tuple(Vec<TypeName>),
    /// `frozen<…>`
    Frozen(Box<TypeName>),
}

/// A column in `CREATE TABLE` or `ALTER TABLE … ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TypeName,
    /// `STATIC`
    pub is_static: bool,
    /// `PRIMARY KEY` behind the column.
    pub primary_key: bool,
}

/// `CREATE TABLE`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    /// The table.
    pub table: Name,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Columns in order.
    pub columns: Vec<ColumnDef>,
    /// Each `PRIMARY KEY ((partition…), clustering…)` clause.
    pub primary_keys: Vec<(Vec<String>, Vec<String>)>,
    /// `CLUSTERING ORDER BY`: columns, and whether descending.
    pub clustering_order: Vec<(String, bool)>,
    /// `COMPACT STORAGE`
    pub compact_storage: bool,
    /// Other options.
    pub properties: Properties,
}

/// What `ALTER TABLE` alters.
#[derive(Debug, Clone, PartialEq)]
pub enum TableChange {
    /// `ADD`
    Add(Vec<ColumnDef>),
    /// `DROP`
    Drop(Vec<String>),
    /// `RENAME a TO b`
    Rename(Vec<(String, String)>),
    /// `WITH`
    With(Properties),
    /// `ALTER column TYPE …`
    AlterType,
}

/// What `ALTER TYPE` alters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeChange {
    /// `ADD`
    Add(String, TypeName),
    /// `RENAME a TO b`
    Rename(Vec<(String, String)>),
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `'text'`
    Text(String),
    /// `12`
    Integer(String),
    /// `1.5`, `NaN`
    Float(String),
    /// `true`
    Boolean(bool),
    /// A uuid.
    Uuid(uuid::Uuid),
    /// `0x0f`, digits alone.
    Hex(String),
    /// `1h30m`
    Duration(String),
}

/// A bind marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Where it is in the text: markers are numbered in this order.
    pub offset: usize,
    /// Its name, for `:name`.
    pub name: Option<String>,
}

/// A value expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// A constant.
    Literal(Literal),
    /// `?` or `:name`
    Marker(Marker),
    /// `[…]`
    List(Vec<Term>),
    /// `{…}`; `{}` is an empty set or map.
    Set(Vec<Term>),
    /// `{k: v}`
    Map(Vec<(Term, Term)>),
    /// `{field: value}`
    Udt(Vec<(String, Term)>),
    /// `(…)`
    Tuple(Vec<Term>),
    /// `f(…)`
    Function(Name, Vec<Term>),
    /// `(type) term`
    TypeHint(TypeName, Box<Term>),
}

/// `SELECT`.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    /// `FROM`
    pub table: Name,
    /// `JSON`
    pub json: bool,
    /// `DISTINCT`
    pub distinct: bool,
    /// What to select; empty for `*`.
    pub items: Vec<SelectItem>,
    /// `WHERE`
    pub relations: Vec<Relation>,
    /// `GROUP BY`
    pub group_by: Vec<String>,
    /// `ORDER BY`: columns, and whether descending.
    pub order_by: Vec<(String, bool)>,
    /// `PER PARTITION LIMIT`
    pub per_partition_limit: Option<Term>,
    /// `LIMIT`
    pub limit: Option<Term>,
    /// `ALLOW FILTERING`
    pub allow_filtering: bool,
    /// `USING TIMEOUT`
    pub timeout: Option<Term>,
}

/// One selected thing.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectItem {
    /// What.
    pub selector: Selector,
    /// `AS`
    pub alias: Option<String>,
}

/// What can be selected.
#[derive(Debug, Clone, PartialEq)]
pub enum Selector {
    /// A column.
    Column(String),
    /// `COUNT(*)`, `COUNT(1)`
    CountRows,
    /// `f(…)`
    Function(Name, Vec<Selector>),
    /// `CAST(… AS type)`
    Cast(Box<Selector>, TypeName),
    /// `udt.field`
    Field(Box<Selector>, String),
    /// A value as an argument of a function.
    Term(Term),
}

/// Comparison operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`
    Eq,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `!=`
    Ne,
    /// `CONTAINS`
    Contains,
    /// `CONTAINS KEY`
    ContainsKey,
    /// `LIKE`
    Like,
}

impl std::fmt::Display for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Eq => "=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::Ne => "!=",
            Self::Contains => "CONTAINS",
            Self::ContainsKey => "CONTAINS KEY",
            Self::Like => "LIKE",
        })
    }
}

/// The right side of `IN`.
#[derive(Debug, Clone, PartialEq)]
pub enum InValues {
    /// One marker for the whole list.
    Marker(Marker),
    /// A list of values.
    List(Vec<Term>),
}

/// One condition of `WHERE`.
#[derive(Debug, Clone, PartialEq)]
pub enum Relation {
    /// `column op value`
    Column(String, Operator, Term),
    /// `column IN …`
    ColumnIn(String, InValues),
    /// `(a, b) op value`
    Tuple(Vec<String>, Operator, Term),
    /// `(a, b) IN …`
    TupleIn(Vec<String>, InValues),
    /// `token(a, b) op value`
    Token(Vec<String>, Operator, Term),
    /// `column[key] op value`
    Entry(String, Term, Operator, Term),
    /// `column IS NOT NULL`
    IsNotNull(String),
}

/// `USING …` of a modification.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Using {
    /// `TIMESTAMP`
    pub timestamp: Option<Term>,
    /// `TTL`
    pub ttl: Option<Term>,
    /// `TIMEOUT`
    pub timeout: Option<Term>,
}

/// `INSERT`, `UPDATE` or `DELETE`.
#[derive(Debug, Clone, PartialEq)]
pub struct Modify {
    /// The table.
    pub table: Name,
    /// `USING`
    pub using: Using,
    /// What to do.
    pub action: Action,
    /// `IF`
    pub conditions: Conditions,
}

/// What a modification does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `INSERT`: columns and values.
    Insert(Vec<String>, Vec<Term>),
    /// `INSERT JSON`
    InsertJson,
    /// `UPDATE`: assignments and `WHERE`.
    Update(Vec<(String, Assignment)>, Vec<Relation>),
    /// `DELETE`: what (a whole row or partition when empty) and `WHERE`.
    Delete(Vec<(String, DeleteTarget)>, Vec<Relation>),
}

/// What happens to a column in `SET`.
#[derive(Debug, Clone, PartialEq)]
pub enum Assignment {
    /// `c = value`
    Set(Term),
    /// `c = c + value`
    Add(Term),
    /// `c = value + c`
    Prepend(Term),
    /// `c = c - value`
    Subtract(Term),
    /// `c[key] = value`
    Element(Term, Term),
    /// `c.field = value`
    Field(String, Term),
}

/// What `DELETE` deletes from a column.
#[derive(Debug, Clone, PartialEq)]
pub enum DeleteTarget {
    /// All of it.
    Column,
    /// `c[key]`
    Element(Term),
    /// `c.field`
    Field(String),
}

/// `IF …`
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Conditions {
    /// Unconditional.
    #[default]
    None,
    /// `IF NOT EXISTS`
    IfNotExists,
    /// `IF EXISTS`
    IfExists,
    /// `IF a = 1 AND …`
    If(Vec<Condition>),
}

/// One condition of `IF`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The column.
    pub column: String,
    /// `column[key]`
    pub element: Option<Term>,
    /// What is asked of it.
    pub test: ConditionTest,
}

/// What a condition asks.
#[derive(Debug, Clone, PartialEq)]
pub enum ConditionTest {
    /// `op value`
    Compare(Operator, Term),
    /// `IN …`
    In(InValues),
}

/// `BEGIN … BATCH`
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Logged, unlogged, counter.
    pub kind: BatchKind,
    /// `USING`
    pub using: Using,
    /// The statements.
    pub statements: Vec<Modify>,
}
