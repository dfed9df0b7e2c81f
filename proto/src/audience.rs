//! Who is addressed: apps, and an expression over segments.
//!
//! An expression is parsed once, here, from what a person wrote into a tree that cannot be wrong; nodes get it in prefix
//! form ([`SegmentExpr::to_wire`]), which needs no parser and no parentheses. All bounds are those of the parser, so that
//! whoever walks the tree (recursively) knows how deep it can be.

use std::{collections::BTreeSet, fmt};

use crate::{error::InvalidField, ids::AppName, wire};

mod parse;

/// Apps of one alert.
pub const APPS_MAX: usize = 64;
/// Longest expression, bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;
/// Names in one expression, repeats included.
pub const EXPRESSION_NAMES_MAX: usize = 64;
/// Parentheses and NOTs within each other. With [`EXPRESSION_NAMES_MAX`] names a tree is at most 64 + 32 deep.
pub const EXPRESSION_DEPTH_MAX: usize = 32;
/// Longest name of a segment, bytes.
pub const SEGMENT_BYTES_MAX: usize = 63;

/// The name of a segment: 1 to 63 of a-z, 0-9, '_' and '-'. `AND`, `OR`, `NOT` are in capitals, so no name is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(String);

impl Segment {
    /// Checks the name.
    ///
    /// # Errors
    /// Without a field name; the caller knows where it stood.
    pub fn new(name: &str) -> Result<Self, InvalidField> {
        Self::check(name)?;
        Ok(Self(name.to_owned()))
    }

    /// The check of [`Segment::new`] alone, for whoever keeps the string as it is.
    ///
    /// # Errors
    /// Without a field name; the caller knows where it stood.
    pub fn check(name: &str) -> Result<(), InvalidField> {
        if name.is_empty() || name.len() > SEGMENT_BYTES_MAX {
            let problem =
                format!("must be 1 to {SEGMENT_BYTES_MAX} characters, has {}", name.len());
            return Err(InvalidField::new("", problem));
        }
        match name.chars().find(|c| !is_segment_char(*c)) {
            Some(c) => Err(InvalidField::new(
                "",
                format_args!("may hold a-z, 0-9, '_' and '-', not {c:?}"),
            )),
            None => Ok(()),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

fn is_segment_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-'
}

/// An expression over segments. NOT binds tighter than AND, AND tighter than OR; equal ones group from the left.
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
    /// No condition.
    #[must_use]
    pub fn everybody() -> Self {
        Self(None)
    }

    /// Parses what a person wrote. Nothing but spaces means everybody.
    ///
    /// # Errors
    /// What was expected and at which byte; without a field name.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        parse::parse(text).map(Self)
    }

    /// True if there is no condition.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        self.0.is_none()
    }

    /// Only those who are also in `segment`.
    #[must_use]
    pub fn and(self, segment: Segment) -> Self {
        let name = Node::Name(segment);
        Self(Some(match self.0 {
            None => name,
            Some(node) => Node::And(Box::new(name), Box::new(node)),
        }))
    }

    /// Whether a device is addressed; `has` says whether it carries a segment.
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

    /// In prefix notation; empty for everybody.
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

/// With the fewest parentheses that give the same tree again.
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
        // Grouping is from the left: the right operand needs parentheses if it is of the same kind.
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

/// Who is addressed within the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// 1 to [`APPS_MAX`], as given, without repeats.
    pub apps: Vec<AppName>,
    /// Over segments.
    pub segments: SegmentExpr,
}

impl Audience {
    /// Checks every limit of the contract; whether the apps exist is the coordinator's to say.
    ///
    /// # Errors
    /// Names the field from the audience inwards: `apps[2]`.
    pub fn from_wire(audience: &wire::v1::Audience) -> Result<Self, InvalidField> {
        match audience.apps.len() {
            0 => return Err(InvalidField::new("apps", "is required: at least one")),
            n if n > APPS_MAX => {
                return Err(InvalidField::new("apps", format_args!("at most {APPS_MAX}, has {n}")));
            }
            _ => {}
        }
        let mut apps = Vec::with_capacity(audience.apps.len());
        for (i, name) in audience.apps.iter().enumerate() {
            apps.push(AppName::from_name(name).map_err(|e| e.within(&format!("apps[{i}]")))?);
        }
        let mut seen = BTreeSet::new();
        if let Some((i, twice)) = apps.iter().enumerate().find(|(_, app)| !seen.insert(*app)) {
            return Err(InvalidField::new(
                format!("apps[{i}]"),
                format_args!("holds {twice} more than once"),
            ));
        }
        let segments = SegmentExpr::parse(&audience.segments).map_err(|e| e.within("segments"))?;
        Ok(Self { apps, segments })
    }
}

#[cfg(test)]
mod tests;
