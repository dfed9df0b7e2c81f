//! Audience of an alert: apps, and a condition on segments.
//!
//! [`SegmentExpr::parse`] converts the text of a condition to a tree once. Nodes receive the tree
//! in prefix notation ([`SegmentExpr::to_wire`]), which needs no parser and no parentheses. The
//! parser limits the depth of the tree, so recursion over the tree is safe.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::{
    error::InvalidField,
    ids::{AppName, UnixMillis},
    wire,
};

mod parse;

/// Maximum number of apps of one alert.
pub const APPS_MAX: usize = 64;
/// Maximum length of an expression, bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;
/// Maximum number of names in one expression, repeats included.
pub const EXPRESSION_NAMES_MAX: usize = 64;
/// Maximum depth of nested parentheses and NOTs. With [`EXPRESSION_NAMES_MAX`] names, a tree is at
/// most 64 + 32 deep.
pub const EXPRESSION_DEPTH_MAX: usize = 32;
/// Maximum length of a segment's name, bytes.
pub const SEGMENT_BYTES_MAX: usize = 63;
/// Smallest accepted age of places: phones report about once an hour at best.
pub const PLACE_SEEN_WITHIN_MIN: Duration = Duration::from_secs(3_600);
/// Largest accepted age of places, which means every place: a historic import brings none that is
/// older.
pub const PLACE_SEEN_WITHIN_MAX: Duration = Duration::from_secs(400 * 24 * 3_600);

/// Name of a segment: 1 to 63 characters of a-z, 0-9, '_' and '-'. The operators `AND`, `OR` and
/// `NOT` are capitals, so they cannot be names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(String);

impl Segment {
    /// Creates a segment from its name.
    ///
    /// # Errors
    /// The name is invalid. The error has an empty field; the caller adds the path.
    pub fn new(name: &str) -> Result<Self, InvalidField> {
        Self::check(name)?;
        Ok(Self(name.to_owned()))
    }

    /// Checks a name as [`Segment::new`] does, without copying it.
    ///
    /// # Errors
    /// The name is invalid. The error has an empty field; the caller adds the path.
    pub fn check(name: &str) -> Result<(), InvalidField> {
        if name.is_empty() || name.len() > SEGMENT_BYTES_MAX {
            let problem =
                format!("must have 1 to {SEGMENT_BYTES_MAX} characters; got {}", name.len());
            return Err(InvalidField::new("", problem));
        }
        match name.chars().find(|c| !is_segment_char(*c)) {
            Some(c) => Err(InvalidField::new(
                "",
                format_args!("must contain only a-z, 0-9, '_' and '-'; got {c:?}"),
            )),
            None => Ok(()),
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name as an owned string.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

fn is_segment_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-'
}

/// Condition on segments. NOT binds tighter than AND, AND tighter than OR; equal operators group
/// from the left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentExpr(Option<Node>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Name(Segment),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
}

impl SegmentExpr {
    /// Returns the empty condition, which is true for every device.
    #[must_use]
    pub fn everybody() -> Self {
        Self(None)
    }

    /// Parses the text of a condition. A text of spaces only is the empty condition.
    ///
    /// # Errors
    /// The text is invalid: the error names the byte, the expected and the found token. Its field
    /// is empty; the caller adds the path.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        parse::parse(text).map(Self)
    }

    /// Whether this is the empty condition.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        self.0.is_none()
    }

    /// Returns a condition that also requires `segment`.
    #[must_use]
    pub fn and(self, segment: Segment) -> Self {
        let name = Node::Name(segment);
        Self(Some(match self.0 {
            None => name,
            Some(node) => Node::And(Box::new(name), Box::new(node)),
        }))
    }

    /// Evaluates the condition for a device; `has` returns whether the device has a segment.
    pub fn eval(&self, has: impl Fn(&str) -> bool) -> bool {
        fn holds(node: &Node, has: &impl Fn(&str) -> bool) -> bool {
            match node {
                Node::Name(name) => has(name.as_str()),
                Node::Not(inner) => !holds(inner, has),
                Node::And(a, b) => holds(a, has) && holds(b, has),
                Node::Or(a, b) => holds(a, has) || holds(b, has),
            }
        }
        self.0.as_ref().is_none_or(|node| holds(node, &has))
    }

    /// Converts the condition to prefix notation. The empty condition becomes an empty list.
    #[must_use]
    pub fn to_wire(&self) -> Vec<wire::shard_v1::SegmentOp> {
        use wire::shard_v1::{BinaryOp, SegmentOp, segment_op::Op};
        fn push(node: &Node, ops: &mut Vec<SegmentOp>) {
            let (op, operands): (_, Vec<&Node>) = match node {
                Node::Name(name) => (Op::Segment(name.0.clone()), vec![]),
                Node::Not(inner) => (Op::Not(true), vec![inner]),
                Node::And(a, b) => (Op::Binary(BinaryOp::And.into()), vec![a, b]),
                Node::Or(a, b) => (Op::Binary(BinaryOp::Or.into()), vec![a, b]),
            };
            ops.push(SegmentOp { op: Some(op) });
            operands.into_iter().for_each(|operand| push(operand, ops));
        }
        let mut ops = Vec::new();
        if let Some(node) = &self.0 {
            push(node, &mut ops);
        }
        ops
    }
}

/// Writes the condition with the fewest parentheses that parse to the same tree.
impl fmt::Display for SegmentExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |node| write_node(node, Precedence::Or, f))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precedence {
    Or,
    And,
    Not,
    Name,
}

fn write_node(node: &Node, least: Precedence, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let own = match node {
        Node::Or(..) => Precedence::Or,
        Node::And(..) => Precedence::And,
        Node::Not(_) => Precedence::Not,
        Node::Name(_) => Precedence::Name,
    };
    if own < least {
        f.write_str("(")?;
    }
    match node {
        Node::Name(name) => f.write_str(&name.0)?,
        Node::Not(inner) => {
            f.write_str("NOT ")?;
            write_node(inner, Precedence::Not, f)?;
        }
        // Equal operators group from the left, so a right operand with the same operator needs
        // parentheses.
        Node::And(a, b) => {
            write_node(a, Precedence::And, f)?;
            f.write_str(" AND ")?;
            write_node(b, Precedence::Not, f)?;
        }
        Node::Or(a, b) => {
            write_node(a, Precedence::Or, f)?;
            f.write_str(" OR ")?;
            write_node(b, Precedence::And, f)?;
        }
    }
    if own < least {
        f.write_str(")")?;
    }
    Ok(())
}

/// Devices inside the region that receive the alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// Apps in the order of the request: 1 to [`APPS_MAX`], without repeats.
    pub apps: Vec<AppName>,
    /// Condition on segments.
    pub segments: SegmentExpr,
    /// Largest age of a device's place at the creation of the alert; `None`: the configured
    /// default.
    pub place_seen_within: Option<Duration>,
}

impl Audience {
    /// Checks every limit of the contract. The coordinator checks whether the apps exist.
    ///
    /// # Errors
    /// The first invalid field, as a path inside the audience such as `apps[2]`.
    pub fn from_wire(audience: &wire::v1::Audience) -> Result<Self, InvalidField> {
        let count = audience.apps.len();
        if !(1..=APPS_MAX).contains(&count) {
            return Err(InvalidField::new(
                "apps",
                format_args!("must have 1 to {APPS_MAX} apps; got {count}"),
            ));
        }
        let mut apps = Vec::with_capacity(audience.apps.len());
        for (i, name) in audience.apps.iter().enumerate() {
            apps.push(AppName::from_name(name).map_err(|e| e.within(&format!("apps[{i}]")))?);
        }
        let mut seen = BTreeSet::new();
        if let Some((i, twice)) = apps.iter().enumerate().find(|(_, app)| !seen.insert(*app)) {
            return Err(InvalidField::new(
                format!("apps[{i}]"),
                format_args!("must not repeat an app; got {twice} more than once"),
            ));
        }
        let segments = SegmentExpr::parse(&audience.segments).map_err(|e| e.within("segments"))?;
        let place_seen_within = audience.place_seen_within.map(place_seen_within).transpose()?;
        Ok(Self { apps, segments, place_seen_within })
    }
}

/// Returns the oldest time at which a place counts as present, for an age of places that begins
/// `now`. The largest age has no oldest time: every place counts.
#[must_use]
pub fn place_seen_after(within: Duration, now: UnixMillis) -> UnixMillis {
    if within >= PLACE_SEEN_WITHIN_MAX {
        return UnixMillis(0);
    }
    let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    UnixMillis(now.0.saturating_sub(within))
}

fn place_seen_within(given: prost_types::Duration) -> Result<Duration, InvalidField> {
    let prost_types::Duration { seconds, nanos } = given;
    let within = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
    within
        .filter(|(_, nanos)| *nanos < 1_000_000_000)
        .map(|(seconds, nanos)| Duration::new(seconds, nanos))
        .filter(|within| (PLACE_SEEN_WITHIN_MIN..=PLACE_SEEN_WITHIN_MAX).contains(within))
        .ok_or_else(|| {
            let (min, max) = (PLACE_SEEN_WITHIN_MIN.as_secs(), PLACE_SEEN_WITHIN_MAX.as_secs());
            InvalidField::new(
                "place_seen_within",
                format_args!(
                    "must be 1 hour ({min} s) to 400 days ({max} s); got {seconds} s and {nanos} ns"
                ),
            )
        })
}

#[cfg(test)]
mod tests;
