//! The order aggregate: commands in, events out.
//!
//! Invariants:
//! 1. An order is placed once, and nothing happens to it before.
//! 2. Lines are added until the order is confirmed; a confirmed order has at least one.
//! 3. An order is shipped only when confirmed, and cancelled only before it is shipped.
//! 4. The total never overflows: every amount is bounded.
//!
//! Pure: no I/O, no clock, no randomness. What happened is the list of events, and applying them
//! in order gives the state.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most lines of an order.
pub const MAX_LINES: usize = 100;
/// The largest quantity of a line.
pub const MAX_QUANTITY: u32 = 10_000;
/// The highest price of one piece, in cents.
pub const MAX_UNIT_CENTS: u64 = 100_000_000;

/// What someone wants to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Open an order.
    Place {
        /// Who orders.
        customer: String,
    },
    /// Put something into it.
    AddLine {
        /// What is ordered.
        sku: String,
        /// How many.
        quantity: u32,
        /// The price of one, in cents.
        unit_cents: u64,
    },
    /// Order what is in it.
    Confirm,
    /// Send it out.
    Ship {
        /// Who carries it.
        carrier: String,
    },
    /// Call it off.
    Cancel {
        /// Why.
        reason: String,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event_type", content = "event_data")]
pub enum Event {
    /// The order was opened.
    OrderPlaced {
        /// Who ordered.
        customer: String,
    },
    /// Something was put into it.
    LineAdded {
        /// What was ordered.
        sku: String,
        /// How many.
        quantity: u32,
        /// The price of one, in cents.
        unit_cents: u64,
    },
    /// It was ordered.
    OrderConfirmed {
        /// The sum of all lines, in cents.
        total_cents: u64,
    },
    /// It was sent out.
    OrderShipped {
        /// Who carries it.
        carrier: String,
    },
    /// It was called off.
    OrderCancelled {
        /// Why.
        reason: String,
    },
}

impl Event {
    /// The name of the event.
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::OrderPlaced { .. } => "OrderPlaced",
            Self::LineAdded { .. } => "LineAdded",
            Self::OrderConfirmed { .. } => "OrderConfirmed",
            Self::OrderShipped { .. } => "OrderShipped",
            Self::OrderCancelled { .. } => "OrderCancelled",
        }
    }
}

/// How far an order has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// Nothing has happened yet.
    #[default]
    New,
    /// Lines can be added.
    Open,
    /// It is ordered.
    Confirmed,
    /// It is on its way.
    Shipped,
    /// It was called off.
    Cancelled,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The order is not in a state in which the command makes sense.
    #[error("an order that is {status:?} cannot be {wanted}")]
    Status {
        /// The state of the order.
        status: Status,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A text of the command is empty.
    #[error("the {what} is empty")]
    Empty {
        /// Which one.
        what: &'static str,
    },
    /// The quantity or the price is zero or above its limit.
    #[error(
        "a line needs a quantity of 1 to {MAX_QUANTITY} and a price up to {MAX_UNIT_CENTS} cents"
    )]
    Amount,
    /// The order has as many lines as an order may have.
    #[error("an order has at most {MAX_LINES} lines")]
    TooManyLines,
    /// An order without lines was to be confirmed.
    #[error("there is nothing in the order")]
    NoLines,
}

/// The state of an order, from its events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Order {
    status: Status,
    lines: usize,
    total_cents: u64,
    version: i64,
}

impl Order {
    /// The order to which these events happened.
    pub fn from_events<'e>(events: impl IntoIterator<Item = &'e Event>) -> Self {
        let mut order = Self::default();
        for event in events {
            order.apply(event);
        }
        order
    }

    /// How far the order has come.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The sum of all lines, in cents.
    pub fn total_cents(&self) -> u64 {
        self.total_cents
    }

    /// How many events have happened; the sequence number of the last.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// What happens if `command` is carried out, or why it is not.
    pub fn decide(&self, command: Command) -> Result<Event, Refusal> {
        match command {
            Command::Place { customer } => {
                self.expect(self.status == Status::New, "placed")?;
                not_empty(&customer, "customer")?;
                Ok(Event::OrderPlaced { customer })
            }
            Command::AddLine {
                sku,
                quantity,
                unit_cents,
            } => {
                self.expect(self.status == Status::Open, "added to")?;
                not_empty(&sku, "sku")?;
                if quantity == 0 || quantity > MAX_QUANTITY || unit_cents > MAX_UNIT_CENTS {
                    return Err(Refusal::Amount);
                }
                if self.lines >= MAX_LINES {
                    return Err(Refusal::TooManyLines);
                }
                Ok(Event::LineAdded {
                    sku,
                    quantity,
                    unit_cents,
                })
            }
            Command::Confirm => {
                self.expect(self.status == Status::Open, "confirmed")?;
                if self.lines == 0 {
                    return Err(Refusal::NoLines);
                }
                Ok(Event::OrderConfirmed {
                    total_cents: self.total_cents,
                })
            }
            Command::Ship { carrier } => {
                self.expect(self.status == Status::Confirmed, "shipped")?;
                not_empty(&carrier, "carrier")?;
                Ok(Event::OrderShipped { carrier })
            }
            Command::Cancel { reason } => {
                let possible = matches!(self.status, Status::Open | Status::Confirmed);
                self.expect(possible, "cancelled")?;
                not_empty(&reason, "reason")?;
                Ok(Event::OrderCancelled { reason })
            }
        }
    }

    /// Takes note of what happened.
    pub fn apply(&mut self, event: &Event) {
        self.version += 1;
        match event {
            Event::OrderPlaced { .. } => self.status = Status::Open,
            Event::LineAdded {
                quantity,
                unit_cents,
                ..
            } => {
                self.lines += 1;
                self.total_cents += u64::from(*quantity) * unit_cents;
            }
            Event::OrderConfirmed { .. } => self.status = Status::Confirmed,
            Event::OrderShipped { .. } => self.status = Status::Shipped,
            Event::OrderCancelled { .. } => self.status = Status::Cancelled,
        }
    }

    fn expect(&self, possible: bool, wanted: &'static str) -> Result<(), Refusal> {
        if possible {
            Ok(())
        } else {
            Err(Refusal::Status {
                status: self.status,
                wanted,
            })
        }
    }
}

fn not_empty(text: &str, what: &'static str) -> Result<(), Refusal> {
    if text.is_empty() {
        Err(Refusal::Empty { what })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(quantity: u32, unit_cents: u64) -> Command {
        Command::AddLine {
            sku: "book".to_owned(),
            quantity,
            unit_cents,
        }
    }

    fn after(commands: impl IntoIterator<Item = Command>) -> Order {
        let mut order = Order::default();
        for command in commands {
            let event = order.decide(command).expect("an allowed command");
            order.apply(&event);
        }
        order
    }

    fn place() -> Command {
        Command::Place {
            customer: "ada".to_owned(),
        }
    }

    fn ship() -> Command {
        Command::Ship {
            carrier: "post".to_owned(),
        }
    }

    fn cancel() -> Command {
        Command::Cancel {
            reason: "changed her mind".to_owned(),
        }
    }

    #[test]
    fn an_order_from_placing_to_shipping() {
        let order = after([
            place(),
            line(2, 1_250),
            line(1, 99),
            Command::Confirm,
            ship(),
        ]);
        assert_eq!(order.status(), Status::Shipped);
        assert_eq!(order.total_cents(), 2_599);
        assert_eq!(order.version(), 5);
    }

    #[test]
    fn nothing_happens_out_of_turn() {
        let refused =
            |order: &Order, command| matches!(order.decide(command), Err(Refusal::Status { .. }));
        let new = Order::default();
        for command in [line(1, 1), Command::Confirm, ship(), cancel()] {
            assert!(refused(&new, command));
        }
        assert!(refused(&after([place()]), place()));
        assert!(refused(&after([place(), line(1, 1)]), ship()));
        let confirmed = after([place(), line(1, 1), Command::Confirm]);
        assert!(refused(&confirmed, line(1, 1)));
        let shipped = after([place(), line(1, 1), Command::Confirm, ship()]);
        assert!(refused(&shipped, cancel()));
        assert!(refused(&after([place(), cancel()]), cancel()));
    }

    #[test]
    fn amounts_are_bounded() {
        let open = after([place()]);
        assert_eq!(open.decide(Command::Confirm), Err(Refusal::NoLines));
        assert_eq!(open.decide(line(0, 1)), Err(Refusal::Amount));
        assert_eq!(open.decide(line(MAX_QUANTITY + 1, 1)), Err(Refusal::Amount));
        assert_eq!(
            open.decide(line(1, MAX_UNIT_CENTS + 1)),
            Err(Refusal::Amount)
        );
        let largest = (0..MAX_LINES).map(|_| line(MAX_QUANTITY, MAX_UNIT_CENTS));
        let full = after(std::iter::once(place()).chain(largest));
        assert_eq!(full.decide(line(1, 1)), Err(Refusal::TooManyLines));
    }

    #[test]
    fn events_survive_json() {
        let event = Event::LineAdded {
            sku: "book".to_owned(),
            quantity: 3,
            unit_cents: 1_999,
        };
        let json = serde_json::to_value(&event).expect("an event is JSON");
        assert_eq!(json["event_type"], event.event_type());
        assert_eq!(json["event_data"]["quantity"], 3);
        assert_eq!(
            serde_json::from_value::<Event>(json).expect("the same"),
            event
        );
    }
}
