//! Statements that change the schema.

use std::sync::Arc;

use uuid::Uuid;

use super::api::{EngineConfig, Outcome, SchemaChange, SchemaChangeKind, SchemaTarget};
use super::columns::{MAX_COLUMNS, drop_column, rename_column, table_columns};
use super::options;
use super::resolve::{self, keyspace_name};
use crate::ast::{
    ColumnDef, CreateTable, Name, Properties, Statement, TableChange, TypeChange, TypeName,
};
use crate::error::Error;
use crate::schema::{
    Catalog, ClusteringOrder, ColumnId, ColumnKind, ColumnSchema, KeyspaceSchema, TableOptions,
    TableSchema, UserType, is_system_keyspace,
};
use crate::types::{CqlType, timeuuid_from_parts};

/// What is behind a base table's name in its log table's name.
const LOG_SUFFIX: &str = "_scylla_cdc_log";

/// The effect of a statement.
pub(super) struct Change {
    /// The new catalog, when it changed.
    pub(super) catalog: Option<Catalog>,
    /// Tables whose rows go.
    pub(super) emptied: Vec<Uuid>,
    pub(super) outcome: Outcome,
}

impl Change {
    fn nothing(outcome: Outcome) -> Self {
        Self {
            catalog: None,
            emptied: Vec::new(),
            outcome,
        }
    }
}

/// A random (version 4) uuid.
pub(super) fn random_uuid(config: &EngineConfig) -> Uuid {
    let high = (config.random.next_u64() & !0xf000) | 0x4000;
    Uuid::from_u64_pair(high, (config.random.next_u64() >> 2) | (1 << 63))
}

/// A time-based uuid, for tables.
fn time_uuid(config: &EngineConfig) -> Uuid {
    let low = (config.random.next_u64() >> 2) | (1 << 63);
    timeuuid_from_parts(config.clock.unique_micros(), 0, low)
}

/// Executes a statement on a catalog.
pub(super) fn change(
    config: &EngineConfig,
    catalog: &Catalog,
    statement: &Statement,
    current: Option<&str>,
) -> Result<Change, Error> {
    let mut editor = Editor {
        config,
        catalog: catalog.clone(),
        emptied: Vec::new(),
        current,
    };
    let outcome = match statement {
        Statement::Use(name) => {
            if catalog.keyspace(name).is_none() {
                return Err(Error::invalid(format!("Keyspace '{name}' does not exist")));
            }
            return Ok(Change::nothing(Outcome::SetKeyspace(name.clone())));
        }
        Statement::Truncate(name) => {
            let table = resolve::table(catalog, name, current)?;
            modifiable(&table.keyspace)?;
            let emptied = vec![table.id];
            return Ok(Change {
                catalog: None,
                emptied,
                outcome: Outcome::Void,
            });
        }
        Statement::Unsupported(what) => return Err(Error::unsupported(what)),
        Statement::CreateKeyspace {
            name,
            if_not_exists,
            properties,
        } => editor.create_keyspace(name, *if_not_exists, properties)?,
        Statement::AlterKeyspace { name, properties } => editor.alter_keyspace(name, properties)?,
        Statement::DropKeyspace { name, if_exists } => editor.drop_keyspace(name, *if_exists)?,
        Statement::CreateTable(create) => editor.create_table(create)?,
        Statement::AlterTable { table, change } => editor.alter_table(table, change)?,
        Statement::DropTable { table, if_exists } => editor.drop_table(table, *if_exists)?,
        Statement::CreateType {
            name,
            if_not_exists,
            fields,
        } => editor.create_type(name, *if_not_exists, fields)?,
        Statement::AlterType { name, change } => editor.alter_type(name, change)?,
        Statement::DropType { name, if_exists } => editor.drop_type(name, *if_exists)?,
        Statement::Select(_) | Statement::Modify(_) | Statement::Batch(_) => {
            return Err(Error::server("not a schema statement"));
        }
    };
    let Some(change) = outcome else {
        return Ok(Change::nothing(Outcome::Void));
    };
    editor.catalog.version = random_uuid(config);
    Ok(Change {
        catalog: Some(editor.catalog),
        emptied: editor.emptied,
        outcome: Outcome::SchemaChange(change),
    })
}

fn modifiable(keyspace: &str) -> Result<(), Error> {
    if is_system_keyspace(keyspace) {
        return Err(Error::unauthorized(format!(
            "{keyspace} keyspace is not user-modifiable."
        )));
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(word) {
        return Err(Error::invalid(format!(
            "\"{name}\" is not a valid {what} name (must be composed of alphanumerics and underscores only)"
        )));
    }
    if name.len() > 48 && !name.ends_with(LOG_SUFFIX) {
        return Err(Error::invalid(format!(
            "{what} names shouldn't be more than 48 characters long (got \"{name}\")"
        )));
    }
    Ok(())
}

type Changed = Option<SchemaChange>;

fn changed(kind: SchemaChangeKind, keyspace: &str, target: SchemaTarget) -> SchemaChange {
    SchemaChange {
        kind,
        keyspace: keyspace.to_owned(),
        target,
    }
}

struct Editor<'a> {
    config: &'a EngineConfig,
    catalog: Catalog,
    emptied: Vec<Uuid>,
    current: Option<&'a str>,
}

impl Editor<'_> {
    fn keyspace(&mut self, name: &str) -> Result<&mut KeyspaceSchema, Error> {
        match self.catalog.keyspaces.get_mut(name) {
            Some(keyspace) => Ok(Arc::make_mut(keyspace)),
            None => Err(Error::invalid(format!("Keyspace {name} does not exist"))),
        }
    }

    fn keyspace_of(&self, name: &Name) -> Result<String, Error> {
        let keyspace = keyspace_name(name, self.current)?.to_owned();
        modifiable(&keyspace)?;
        Ok(keyspace)
    }

    fn create_keyspace(
        &mut self,
        name: &str,
        if_not_exists: bool,
        properties: &Properties,
    ) -> Result<Changed, Error> {
        check_name("Keyspace", name)?;
        if self.catalog.keyspace(name).is_some() {
            return if if_not_exists {
                Ok(None)
            } else {
                Err(Error::keyspace_exists(name))
            };
        }
        modifiable(name)?;
        let mut keyspace = KeyspaceSchema::new(name);
        keyspace.replication.clear();
        options::keyspace(&mut keyspace, properties)?;
        if keyspace.replication.is_empty() {
            return Err(Error::config(
                "Missing mandatory replication strategy class",
            ));
        }
        self.catalog
            .keyspaces
            .insert(name.to_owned(), Arc::new(keyspace));
        Ok(Some(changed(
            SchemaChangeKind::Created,
            name,
            SchemaTarget::Keyspace,
        )))
    }

    fn alter_keyspace(&mut self, name: &str, properties: &Properties) -> Result<Changed, Error> {
        modifiable(name)?;
        options::keyspace(self.keyspace(name)?, properties)?;
        Ok(Some(changed(
            SchemaChangeKind::Updated,
            name,
            SchemaTarget::Keyspace,
        )))
    }

    fn drop_keyspace(&mut self, name: &str, if_exists: bool) -> Result<Changed, Error> {
        modifiable(name)?;
        match self.catalog.keyspaces.remove(name) {
            Some(keyspace) => {
                self.emptied
                    .extend(keyspace.tables.values().map(|table| table.id));
                Ok(Some(changed(
                    SchemaChangeKind::Dropped,
                    name,
                    SchemaTarget::Keyspace,
                )))
            }
            None if if_exists => Ok(None),
            None => Err(Error::config(format!(
                "Cannot drop non existing keyspace '{name}'."
            ))),
        }
    }

    fn create_table(&mut self, create: &CreateTable) -> Result<Changed, Error> {
        let keyspace = self.keyspace_of(&create.table)?;
        let name = &create.table.name;
        check_name("Table", name)?;
        if self.keyspace(&keyspace)?.tables.contains_key(name) {
            let exists = Error::table_exists(&keyspace, name);
            return if create.if_not_exists {
                Ok(None)
            } else {
                Err(exists)
            };
        }
        let columns = table_columns(self.keyspace(&keyspace)?, create)?;
        let mut table_options = TableOptions::default();
        let given_id = options::table(&mut table_options, &create.properties)?;
        let id = given_id.unwrap_or_else(|| time_uuid(self.config));
        let table = TableSchema::new(id, keyspace.clone(), name.clone(), columns, table_options);
        self.put_table(table, None)?;
        Ok(Some(changed(
            SchemaChangeKind::Created,
            &keyspace,
            SchemaTarget::Table(name.clone()),
        )))
    }

    /// Stores a table, and its log table when CDC is on.
    fn put_table(
        &mut self,
        table: TableSchema,
        renamed: Option<&TableSchema>,
    ) -> Result<(), Error> {
        let (keyspace, name) = (table.keyspace.clone(), table.name.clone());
        let mut log = None;
        if table.options.cdc().enabled {
            if table.is_counter() {
                return Err(Error::invalid(format!(
                    "Cannot create CDC log for table {keyspace}.{name}. Counter support not implemented"
                )));
            }
            let existing = self
                .catalog
                .table(&keyspace, &format!("{name}{LOG_SUFFIX}"))
                .cloned();
            if renamed.is_none() && existing.is_some() {
                return Err(Error::invalid(format!(
                    "Cannot create CDC log table for table {keyspace}.{name} because a table of name {keyspace}.{name}{LOG_SUFFIX} already exists"
                )));
            }
            let mut schema = self.config.cdc.log_schema(&table, existing.as_deref())?;
            if existing
                .as_deref()
                .is_none_or(|existing| *existing != schema)
            {
                schema.version = random_uuid(self.config);
                log = Some(schema);
            }
        }
        let tables = &mut self.keyspace(&keyspace)?.tables;
        tables.insert(name, Arc::new(table));
        if let Some(log) = log {
            tables.insert(log.name.clone(), Arc::new(log));
        }
        Ok(())
    }

    fn alter_table(&mut self, name: &Name, change: &TableChange) -> Result<Changed, Error> {
        let keyspace = self.keyspace_of(name)?;
        let before = resolve::table(&self.catalog, name, self.current)?;
        let mut table = (*before).clone();
        match change {
            TableChange::AlterType => return Err(Error::unsupported("ALTER TABLE … ALTER TYPE")),
            TableChange::Add(columns) => {
                for column in columns {
                    self.add_column(&mut table, column)?;
                }
            }
            TableChange::Drop(columns) => {
                for column in columns {
                    drop_column(&mut table, column)?;
                }
            }
            TableChange::Rename(renames) => {
                for (from, to) in renames {
                    rename_column(&mut table, from, to)?;
                }
            }
            TableChange::With(properties) => {
                options::table(&mut table.options, properties)?;
            }
        }
        table.sort_columns();
        table.version = random_uuid(self.config);
        self.put_table(table, Some(&before))?;
        Ok(Some(changed(
            SchemaChangeKind::Updated,
            &keyspace,
            SchemaTarget::Table(name.name.clone()),
        )))
    }

    fn add_column(&mut self, table: &mut TableSchema, column: &ColumnDef) -> Result<(), Error> {
        let name = &column.name;
        if table.column(name).is_some() {
            return Err(Error::invalid(format!(
                "Invalid column name {name} because it conflicts with an existing column"
            )));
        }
        if column.primary_key {
            return Err(Error::invalid(
                "Cannot add a PRIMARY KEY column to an existing table",
            ));
        }
        if column.is_static && table.clustering_key().is_empty() {
            return Err(Error::invalid(
                "Static columns are not allowed in tables without clustering columns",
            ));
        }
        let ty = resolve::cql_type(self.keyspace(&table.keyspace.clone())?, &column.ty)?;
        if table.columns.len() >= MAX_COLUMNS {
            return Err(Error::invalid("Too many columns"));
        }
        let id = ColumnId(table.next_column_id);
        table.next_column_id += 1;
        table.columns.push(ColumnSchema {
            id,
            name: name.clone(),
            ty,
            kind: if column.is_static {
                ColumnKind::Static
            } else {
                ColumnKind::Regular
            },
            position: 0,
            order: ClusteringOrder::Asc,
        });
        Ok(())
    }

    fn drop_table(&mut self, name: &Name, if_exists: bool) -> Result<Changed, Error> {
        let keyspace = self.keyspace_of(name)?;
        let table = &name.name;
        let is_log = table.strip_suffix(LOG_SUFFIX).is_some_and(|base| {
            self.catalog
                .table(&keyspace, base)
                .is_some_and(|base| base.options.cdc().enabled)
        });
        if is_log {
            return Err(Error::unauthorized(format!(
                "Cannot DROP cdc log table <table {keyspace}.{table}>"
            )));
        }
        if self.catalog.table(&keyspace, table).is_none() {
            if if_exists {
                return Ok(None);
            }
            self.keyspace(&keyspace)?;
            return Err(Error::invalid(format!(
                "Cannot drop non existing table '{table}' in keyspace '{keyspace}'."
            )));
        }
        let tables = &mut self.keyspace(&keyspace)?.tables;
        let base = tables.remove(table);
        let log = tables.remove(&format!("{table}{LOG_SUFFIX}"));
        self.emptied
            .extend(base.iter().chain(&log).map(|table| table.id));
        Ok(Some(changed(
            SchemaChangeKind::Dropped,
            &keyspace,
            SchemaTarget::Table(table.clone()),
        )))
    }

    fn create_type(
        &mut self,
        name: &Name,
        if_not_exists: bool,
        fields: &[(String, TypeName)],
    ) -> Result<Changed, Error> {
        let keyspace_name = self.keyspace_of(name)?;
        let keyspace = self.keyspace(&keyspace_name)?;
        if keyspace.types.contains_key(&name.name) {
            return if if_not_exists {
                Ok(None)
            } else {
                Err(Error::invalid(format!(
                    "A user type of name {keyspace_name}.{} already exists",
                    name.name
                )))
            };
        }
        let mut known: Vec<(String, CqlType)> = Vec::new();
        for (field, ty) in fields {
            if known.iter().any(|(other, _)| other == field) {
                return Err(Error::invalid(format!(
                    "Duplicate field name {field} in type {}",
                    name.name
                )));
            }
            known.push((field.clone(), field_type(keyspace, ty)?));
        }
        let udt = UserType {
            keyspace: keyspace_name.clone(),
            name: name.name.clone(),
            fields: known,
        };
        keyspace.types.insert(name.name.clone(), Arc::new(udt));
        let target = SchemaTarget::Type(name.name.clone());
        Ok(Some(changed(
            SchemaChangeKind::Created,
            &keyspace_name,
            target,
        )))
    }

    fn alter_type(&mut self, name: &Name, change: &TypeChange) -> Result<Changed, Error> {
        let keyspace_name = self.keyspace_of(name)?;
        let in_use = self.type_user(&keyspace_name, &name.name)?;
        if let Some(user) = in_use {
            return Err(Error::unsupported(format!(
                "ALTER TYPE of a type that {user} uses"
            )));
        }
        let keyspace = self.keyspace(&keyspace_name)?;
        let mut udt = (*keyspace.types[&name.name]).clone();
        match change {
            TypeChange::Add(field, ty) => {
                if udt.fields.iter().any(|(other, _)| other == field) {
                    return Err(Error::invalid(format!(
                        "Cannot add new field {field} to type {keyspace_name}.{}: a field of the same name already exists",
                        name.name
                    )));
                }
                let ty = field_type(keyspace, ty)?;
                udt.fields.push((field.clone(), ty));
            }
            TypeChange::Rename(renames) => {
                for (from, to) in renames {
                    let found = udt.fields.iter_mut().find(|(field, _)| field == from);
                    let (field, _) = found.ok_or_else(|| {
                        Error::invalid(format!("Unknown field {from} in type {}", name.name))
                    })?;
                    field.clone_from(to);
                }
            }
        }
        keyspace.types.insert(name.name.clone(), Arc::new(udt));
        let target = SchemaTarget::Type(name.name.clone());
        Ok(Some(changed(
            SchemaChangeKind::Updated,
            &keyspace_name,
            target,
        )))
    }

    fn drop_type(&mut self, name: &Name, if_exists: bool) -> Result<Changed, Error> {
        let keyspace_name = self.keyspace_of(name)?;
        let known = self
            .keyspace(&keyspace_name)?
            .types
            .contains_key(&name.name);
        if !known && if_exists {
            return Ok(None);
        }
        if let Some(user) = self.type_user(&keyspace_name, &name.name)? {
            return Err(Error::invalid(format!(
                "Cannot drop user type {keyspace_name}.{} as it is still used by {user}",
                name.name
            )));
        }
        self.keyspace(&keyspace_name)?.types.remove(&name.name);
        let target = SchemaTarget::Type(name.name.clone());
        Ok(Some(changed(
            SchemaChangeKind::Dropped,
            &keyspace_name,
            target,
        )))
    }

    /// Who uses a user type.
    fn type_user(&mut self, keyspace_name: &str, name: &str) -> Result<Option<String>, Error> {
        let keyspace = self.keyspace(keyspace_name)?;
        if !keyspace.types.contains_key(name) {
            return Err(Error::invalid(format!(
                "No user type named {keyspace_name}.{name} exists."
            )));
        }
        let uses = |ty: &CqlType| ty.uses_type(keyspace_name, name);
        let table = keyspace
            .tables
            .values()
            .find(|table| table.columns.iter().any(|c| uses(&c.ty)));
        if let Some(table) = table {
            return Ok(Some(format!("table {keyspace_name}.{}", table.name)));
        }
        let other = keyspace
            .types
            .values()
            .find(|other| other.name != name && other.fields.iter().any(|(_, ty)| uses(ty)));
        Ok(other.map(|other| format!("user type {}", other.name)))
    }
}

fn field_type(keyspace: &KeyspaceSchema, name: &TypeName) -> Result<CqlType, Error> {
    let ty = resolve::cql_type(keyspace, name)?;
    if ty.contains_counter() {
        return Err(Error::invalid("A user type cannot contain counters"));
    }
    Ok(ty)
}
