//! `SELECT`: execution.

use std::ops::Bound;

use bytes::Bytes;

use super::api::{EngineConfig, ExecuteParams, RowSet};
use super::filter::BoundFilter;
use super::paging::{self, PagingState};
use super::read::{Cursor, Partitions, RowView, Step, Target, walk};
use super::restrict::token_bound;
use super::select::{Aggregate, Output, SelectPlan};
use super::term::{Scope, token_of};
use crate::error::Error;
use crate::functions;
use crate::mutation::ClusteringRange;
use crate::schema::TableSchema;
use crate::storage::{Column, PartitionPosition, ReadId, RowPosition, Storage};
use crate::types::{CqlType, Value, encode};

/// Runs a planned `SELECT`.
pub(super) fn run(
    config: &EngineConfig,
    storage: &dyn Storage,
    plan: &SelectPlan,
    scope: &Scope<'_>,
    params: &ExecuteParams,
) -> Result<RowSet, Error> {
    let mut query = Query::new(config, plan, scope, params)?;
    let Some(target) = target(config, plan, scope)? else {
        query.finish_aggregate();
        return Ok(query.result());
    };
    query.check_paging(&target)?;
    let after = query.after.take();
    let now_micros = config.clock.now_micros();
    walk(
        storage,
        &plan.table,
        &target,
        after.as_ref(),
        now_micros,
        &mut |place, row| query.visit(place, row),
    )?;
    query.finish_aggregate();
    Ok(query.result())
}

/// What a `SELECT` reads; `None` for nothing.
fn target(
    config: &EngineConfig,
    plan: &SelectPlan,
    scope: &Scope<'_>,
) -> Result<Option<Target>, Error> {
    let restrictions = &plan.restrictions;
    let table = &plan.table;
    let from = token_bound(scope, restrictions.token_from.as_ref())?;
    let to = token_bound(scope, restrictions.token_to.as_ref())?;
    let partitions = if restrictions.has_partition() {
        let mut positions = Vec::new();
        for key in restrictions.partition_keys(scope, table)? {
            let position = position(config, table, &key);
            let inside = from.is_none_or(|(token, closed)| {
                position.token > token || (closed && position.token == token)
            }) && to.is_none_or(|(token, closed)| {
                position.token < token || (closed && position.token == token)
            });
            if inside {
                positions.push(position);
            }
        }
        positions.sort();
        positions.dedup();
        Partitions::Keys(positions)
    } else {
        let bound = |side: Option<(i64, bool)>| match side {
            None => Bound::Unbounded,
            Some((token, true)) => Bound::Included(token),
            Some((token, false)) => Bound::Excluded(token),
        };
        // The smallest token belongs to no key: as an upper bound it means the ring's end.
        let to = to.filter(|(token, _)| *token != i64::MIN);
        Partitions::Tokens(bound(from), bound(to))
    };
    let ranges = sorted(table, restrictions.clustering_ranges(scope, table)?);
    if ranges.is_empty() {
        return Ok(None);
    }
    Ok(Some(Target {
        partitions,
        ranges,
        reversed: plan.reversed,
        static_only: !restrictions.has_clustering() && table.has_static_columns(),
        distinct: plan.distinct,
    }))
}

/// A partition's place.
pub(super) fn position(
    config: &EngineConfig,
    table: &TableSchema,
    key: &[Value],
) -> PartitionPosition {
    let key = TableSchema::partition_key_bytes(key);
    PartitionPosition {
        token: config.partitioner.token(table, &key),
        key,
    }
}

/// Ranges in clustering order, equal ones once. (Ranges of one statement do not overlap unless they
/// are equal: they differ in their prefix.)
fn sorted(table: &TableSchema, ranges: Vec<ClusteringRange>) -> Vec<ClusteringRange> {
    if ranges.len() < 2 {
        return ranges;
    }
    let mut keyed: Vec<((RowPosition, RowPosition), ClusteringRange)> = ranges
        .into_iter()
        .map(|range| (RowPosition::range(table, &range), range))
        .collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    keyed.dedup_by(|(a, _), (b, _)| a == b);
    keyed.into_iter().map(|(_, range)| range).collect()
}

struct Query<'a> {
    config: &'a EngineConfig,
    plan: &'a SelectPlan,
    scope: &'a Scope<'a>,
    filters: Vec<BoundFilter>,
    /// Rows still to return.
    limit: Option<u64>,
    per_partition_limit: Option<u64>,
    page_size: Option<usize>,
    /// Where an earlier page ended.
    after: Option<Cursor>,
    /// The partition of the latest row, and the rows returned from it.
    current: Option<(PartitionPosition, u64)>,
    last: Option<Cursor>,
    rows: Vec<Vec<Option<Bytes>>>,
    /// Sort keys of the rows, when several partitions are merged into one order.
    merge: Option<Vec<RowPosition>>,
    more: bool,
    /// This read, for rows that are hidden from some.
    read: ReadId,
    group: Option<Group>,
    groups: u64,
}

/// An aggregation that goes on.
struct Group {
    key: Vec<Value>,
    states: Vec<State>,
}

/// The state of one selected value of a group.
enum State {
    Count(i64),
    Best(Option<Value>),
    Numbers {
        average: bool,
        ty: CqlType,
        sum: f64,
        whole: i128,
        count: i64,
    },
    /// The value in the group's first row, once there was one.
    First {
        seen: bool,
        value: Option<Value>,
    },
}

impl<'a> Query<'a> {
    fn new(
        config: &'a EngineConfig,
        plan: &'a SelectPlan,
        scope: &'a Scope<'a>,
        params: &ExecuteParams,
    ) -> Result<Self, Error> {
        let positive = |value: Option<i64>, what: &str| match value {
            None => Ok(None),
            Some(n) => match u64::try_from(n) {
                Ok(n) if n > 0 => Ok(Some(n)),
                _ => Err(Error::invalid(format!("{what} must be strictly positive"))),
            },
        };
        let mut limit = positive(scope.integer(plan.limit.as_ref())?, "LIMIT")?;
        let per_partition_limit = positive(
            scope.integer(plan.per_partition_limit.as_ref())?,
            "PER PARTITION LIMIT",
        )?;
        let mut after = None;
        let mut current = None;
        if let Some(state) = &params.paging_state
            && !plan.aggregate
        {
            let state = paging::decode(state, &plan.table)?;
            if limit.is_some() {
                limit = Some(state.remaining.unwrap_or(0));
            }
            current = Some((state.cursor.partition.clone(), state.in_partition));
            after = Some(state.cursor);
        }
        let filters = plan.restrictions.filters.iter();
        let filters = filters.map(|filter| BoundFilter::new(filter, scope, &plan.table));
        let page_size = params.page_size.and_then(|size| usize::try_from(size).ok());
        Ok(Self {
            config,
            plan,
            scope,
            filters: filters.collect::<Result<_, _>>()?,
            limit,
            per_partition_limit,
            page_size: page_size.filter(|size| *size > 0 && !plan.aggregate),
            after,
            current,
            last: None,
            rows: Vec::new(),
            merge: None,
            more: false,
            read: ReadId::default(),
            group: None,
            groups: 0,
        })
    }

    fn check_paging(&mut self, target: &Target) -> Result<(), Error> {
        let several = matches!(&target.partitions, Partitions::Keys(keys) if keys.len() > 1);
        if !self.plan.ordered || !several {
            return Ok(());
        }
        if self.page_size.is_some() {
            return Err(Error::invalid(
                "Cannot page queries with both ORDER BY and a IN restriction on the partition key; you must either remove the ORDER BY or the IN and sort client side, or disable paging for this query",
            ));
        }
        self.merge = Some(Vec::new());
        Ok(())
    }

    fn visit(&mut self, place: &PartitionPosition, row: &RowView<'_>) -> Result<Step, Error> {
        for filter in &self.filters {
            let value = row.value(&self.plan.table.columns[filter.column]);
            if !filter.passes(value.as_deref()) {
                return Ok(Step::Next);
            }
        }
        let in_partition = match &self.current {
            Some((partition, count)) if partition == place => *count,
            _ => 0,
        };
        if self
            .per_partition_limit
            .is_some_and(|limit| in_partition >= limit)
        {
            return Ok(Step::NextPartition);
        }
        if self.plan.aggregate {
            if self.is_hidden(row) {
                return Ok(Step::Next);
            }
            self.current = Some((place.clone(), in_partition + 1));
            return self.aggregate(row);
        }
        if self.limit == Some(0) && self.merge.is_none() {
            return Ok(Step::Stop);
        }
        if self.page_size.is_some_and(|size| self.rows.len() >= size) {
            self.more = true;
            return Ok(Step::Stop);
        }
        if self.is_hidden(row) {
            return Ok(Step::Next);
        }
        let mut values = Vec::with_capacity(self.plan.selection.len());
        for output in &self.plan.selection {
            values.push(self.bytes(output, row)?);
        }
        self.rows.push(values);
        match &mut self.current {
            Some((partition, count)) if partition == place => *count += 1,
            current => *current = Some((place.clone(), 1)),
        }
        if let Some(keys) = &mut self.merge {
            keys.extend(row.position.cloned());
            return Ok(Step::Next);
        }
        // Only a full page can have another one behind it.
        if self.page_size == Some(self.rows.len()) {
            self.last = Some(Cursor {
                partition: place.clone(),
                row: row
                    .position
                    .filter(|_| !self.plan.distinct)
                    .map(RowPosition::to_values),
            });
        }
        if let Some(limit) = &mut self.limit {
            *limit -= 1;
        }
        Ok(Step::Next)
    }

    /// Whether a row that this read would return is hidden from it.
    fn is_hidden(&mut self, row: &RowView<'_>) -> bool {
        let veil = row.row.and_then(|row| row.veil.as_ref());
        veil.is_some_and(|veil| veil.hides_from(&mut self.read))
    }

    fn bytes(&self, output: &Output, row: &RowView<'_>) -> Result<Option<Bytes>, Error> {
        if let Output::Column(index) = output {
            let value = row.value(&self.plan.table.columns[*index]);
            return Ok(value.map(|value| encode(&value)));
        }
        Ok(self.value(output, row)?.map(|value| encode(&value)))
    }

    fn value(&self, output: &Output, row: &RowView<'_>) -> Result<Option<Value>, Error> {
        let table = &self.plan.table;
        Ok(match output {
            Output::Column(index) => row
                .value(&table.columns[*index])
                .map(std::borrow::Cow::into_owned),
            Output::Constant(expr) => self.scope.eval(expr)?.into_option(),
            Output::Call(scalar, arguments) => {
                let arguments = self.values(arguments, row)?;
                functions::call(
                    scalar,
                    &arguments,
                    &*self.config.clock,
                    &*self.config.random,
                )?
            }
            Output::Token(arguments) => token_of(self.config, table, self.values(arguments, row)?),
            Output::Field(inner, at) => match self.value(inner, row)? {
                Some(Value::Tuple(mut fields)) if *at < fields.len() => fields.swap_remove(*at),
                _ => None,
            },
            Output::WriteTime(index) => match row.stored(&table.columns[*index]) {
                Some(Column::Atomic(cell)) if cell.live(row.now_seconds).is_some() => {
                    Some(Value::BigInt(cell.timestamp))
                }
                _ => None,
            },
            Output::Ttl(index) => match row.stored(&table.columns[*index]) {
                Some(Column::Atomic(cell)) if cell.live(row.now_seconds).is_some() => {
                    cell.expiry.map(|expiry| {
                        let left = expiry.at_seconds - row.now_seconds;
                        Value::Int(i32::try_from(left).unwrap_or(i32::MAX))
                    })
                }
                _ => None,
            },
            Output::CountRows | Output::Aggregate(..) => None,
        })
    }

    fn values(&self, outputs: &[Output], row: &RowView<'_>) -> Result<Vec<Option<Value>>, Error> {
        outputs
            .iter()
            .map(|output| self.value(output, row))
            .collect()
    }

    fn aggregate(&mut self, row: &RowView<'_>) -> Result<Step, Error> {
        let columns = self
            .plan
            .group_by
            .iter()
            .map(|index| &self.plan.table.columns[*index]);
        let key: Vec<Value> = columns
            .filter_map(|column| row.value(column).map(std::borrow::Cow::into_owned))
            .collect();
        if self.group.as_ref().is_some_and(|group| group.key != key) {
            self.close_group();
            if self.limit.is_some_and(|limit| self.groups >= limit) {
                return Ok(Step::Stop);
            }
        }
        let mut group = self.group.take().unwrap_or_else(|| self.new_group(key));
        for (output, state) in self.plan.selection.iter().zip(&mut group.states) {
            let value = match output {
                Output::CountRows => None,
                Output::Aggregate(_, inner) => self.value(inner, row)?,
                other => match state {
                    State::First { seen: true, .. } => None,
                    _ => self.value(other, row)?,
                },
            };
            state.add(output, value);
        }
        self.group = Some(group);
        Ok(Step::Next)
    }

    fn new_group(&self, key: Vec<Value>) -> Group {
        let outputs = self.plan.selection.iter().zip(self.plan.columns.iter());
        let states = outputs.map(|(output, column)| State::new(output, &column.ty));
        Group {
            key,
            states: states.collect(),
        }
    }

    fn close_group(&mut self) {
        if let Some(group) = self.group.take() {
            let row = group.states.into_iter().map(State::finish);
            self.rows
                .push(row.map(|value| value.map(|value| encode(&value))).collect());
            self.groups += 1;
        }
    }

    fn finish_aggregate(&mut self) {
        if !self.plan.aggregate {
            return;
        }
        if self.group.is_none() && self.plan.group_by.is_empty() {
            self.group = Some(self.new_group(Vec::new()));
        }
        if self.limit.is_none_or(|limit| self.groups < limit) {
            self.close_group();
        }
    }

    fn result(mut self) -> RowSet {
        if let Some(keys) = self.merge.take() {
            let mut keyed: Vec<_> = keys.into_iter().zip(self.rows).collect();
            keyed.sort_by(|(a, _), (b, _)| {
                if self.plan.reversed {
                    b.cmp(a)
                } else {
                    a.cmp(b)
                }
            });
            self.rows = keyed.into_iter().map(|(_, row)| row).collect();
            self.rows
                .truncate(self.limit.map_or(usize::MAX, |limit| limit as usize));
        }
        let more = self.more;
        let in_partition = self.current.as_ref().map_or(0, |(_, count)| *count);
        let remaining = self.limit;
        let state = self.last.filter(|_| more).map(|cursor| {
            paging::encode(&PagingState {
                cursor,
                remaining,
                in_partition,
            })
        });
        RowSet {
            columns: self.plan.columns.clone(),
            rows: self.rows,
            paging_state: state,
        }
    }
}

impl State {
    fn new(output: &Output, ty: &CqlType) -> Self {
        match output {
            Output::CountRows | Output::Aggregate(Aggregate::Count, _) => Self::Count(0),
            Output::Aggregate(Aggregate::Min | Aggregate::Max, _) => Self::Best(None),
            Output::Aggregate(which, _) => Self::Numbers {
                average: *which == Aggregate::Avg,
                ty: ty.clone(),
                sum: 0.0,
                whole: 0,
                count: 0,
            },
            _ => Self::First {
                seen: false,
                value: None,
            },
        }
    }

    fn add(&mut self, output: &Output, value: Option<Value>) {
        match self {
            Self::Count(count) => {
                if matches!(output, Output::CountRows) || value.is_some() {
                    *count += 1;
                }
            }
            Self::Best(best) => {
                let Some(value) = value else { return };
                let max = matches!(output, Output::Aggregate(Aggregate::Max, _));
                if best
                    .as_ref()
                    .is_none_or(|old| if max { value > *old } else { value < *old })
                {
                    *best = Some(value);
                }
            }
            Self::Numbers {
                sum, whole, count, ..
            } => {
                match value {
                    Some(Value::TinyInt(n)) => *whole += i128::from(n),
                    Some(Value::SmallInt(n)) => *whole += i128::from(n),
                    Some(Value::Int(n)) => *whole += i128::from(n),
                    Some(Value::BigInt(n) | Value::Counter(n)) => *whole += i128::from(n),
                    Some(Value::Float(n)) => *sum += f64::from(n),
                    Some(Value::Double(n)) => *sum += n,
                    _ => return,
                }
                *count += 1;
            }
            Self::First { seen, value: first } => {
                if !*seen {
                    *seen = true;
                    *first = value;
                }
            }
        }
    }

    fn finish(self) -> Option<Value> {
        match self {
            Self::Count(count) => Some(Value::BigInt(count)),
            Self::Best(best) => best,
            Self::First { value, .. } => value,
            Self::Numbers {
                average,
                ty,
                sum,
                whole,
                count,
            } => {
                let by = if average { count.max(1) } else { 1 };
                let (real, integer) = (sum / by as f64, whole / i128::from(by));
                Some(match ty {
                    CqlType::TinyInt => Value::TinyInt(integer as i8),
                    CqlType::SmallInt => Value::SmallInt(integer as i16),
                    CqlType::Int => Value::Int(integer as i32),
                    CqlType::BigInt | CqlType::Counter => Value::BigInt(integer as i64),
                    CqlType::Float => Value::Float(real as f32),
                    _ => Value::Double(real),
                })
            }
        }
    }
}
