//! The audience of a wave: an expression over segments, evaluated once for each set of segments.
//!
//! Devices share sets of segments: a million devices have some thousand sets. The result for a set
//! never changes (sets are never changed, see [`Vocabulary`]), so each is computed at the first
//! device that has the set, and stored in a byte.

use crate::partition::{SegmentsIndex, Vocabulary};

/// Most operations in an expression.
pub const OPS_MAX: usize = 256;
/// Most operands that are pending during an evaluation; bounds the stack.
pub const DEPTH_MAX: usize = 32;

/// One operation of an audience expression in prefix form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentOp {
    /// Both of the next two operands must match.
    And,
    /// One of the next two operands must match.
    Or,
    /// The next operand must not match.
    Not,
    /// The device has this segment.
    Has(String),
}

/// A checked expression with its results so far. Each wave has one per core, because each core has
/// its own vocabulary.
#[derive(Debug, Clone)]
pub struct Program {
    /// Operations in postfix order, so that a stack of booleans is enough.
    ops: Vec<SegmentOp>,
    /// Result for each set of segments, by its index.
    memo: Vec<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    NotAsked,
    Yes,
    No,
}

/// Error for an invalid expression: a defect of the sender, so a retry cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The expression has too many operations.
    #[error("audience: must have at most {OPS_MAX} operations; got {ops}")]
    TooLong {
        /// Number of operations in the expression.
        ops: usize,
    },
    /// The expression is nested too deeply.
    #[error("audience: must be nested at most {DEPTH_MAX} deep")]
    TooDeep,
    /// An operator lacks operands.
    #[error("audience: operation {at} must have all its operands")]
    OperandMissing {
        /// Position of the operation in prefix order, from 0.
        at: usize,
    },
    /// More data follows the end of the expression.
    #[error("audience: must be one expression; got {surplus} more")]
    Surplus {
        /// Number of operands that no operator uses.
        surplus: usize,
    },
}

impl Program {
    /// Checks an expression in prefix form. An empty expression addresses every device.
    ///
    /// # Errors
    /// The defect of the expression.
    pub fn compile(prefix: &[SegmentOp]) -> Result<Self, ProgramError> {
        if prefix.len() > OPS_MAX {
            return Err(ProgramError::TooLong { ops: prefix.len() });
        }
        // Prefix form read backwards is postfix form with the operands of each operator swapped.
        // The result of both operators that have two operands does not depend on their order.
        let ops: Vec<_> = prefix.iter().rev().cloned().collect();
        let mut depth = 0usize;
        for (n, op) in ops.iter().enumerate() {
            let operands = match op {
                SegmentOp::Has(_) => 0,
                SegmentOp::Not => 1,
                SegmentOp::And | SegmentOp::Or => 2,
            };
            if depth < operands {
                return Err(ProgramError::OperandMissing { at: prefix.len() - 1 - n });
            }
            depth = depth - operands + 1;
            if depth > DEPTH_MAX {
                return Err(ProgramError::TooDeep);
            }
        }
        if depth > 1 {
            return Err(ProgramError::Surplus { surplus: depth - 1 });
        }
        Ok(Self { ops, memo: Vec::new() })
    }

    /// Reports whether devices with this set of segments are addressed. An unknown set is addressed
    /// only by an empty expression.
    pub fn matches(&mut self, words: &Vocabulary, segments: SegmentsIndex) -> bool {
        if self.ops.is_empty() {
            return true;
        }
        let at = usize::from(segments.0);
        match self.memo.get(at) {
            Some(Answer::Yes) => return true,
            Some(Answer::No) => return false,
            Some(Answer::NotAsked) | None => {}
        }
        let Some(names) = words.segments(segments) else { return false };
        let answer = self.evaluate(&names.collect::<Vec<_>>());
        if self.memo.len() <= at {
            self.memo.resize(at + 1, Answer::NotAsked);
        }
        self.memo[at] = if answer { Answer::Yes } else { Answer::No };
        answer
    }

    fn evaluate(&self, names: &[&str]) -> bool {
        let mut stack = [false; DEPTH_MAX];
        let mut top = 0; // checked by `compile`: operands are there, and never more than DEPTH_MAX
        for op in &self.ops {
            match op {
                SegmentOp::Has(name) => {
                    stack[top] = names.contains(&name.as_str());
                    top += 1;
                }
                SegmentOp::Not => stack[top - 1] = !stack[top - 1],
                SegmentOp::And => {
                    top -= 1;
                    stack[top - 1] &= stack[top];
                }
                SegmentOp::Or => {
                    top -= 1;
                    stack[top - 1] |= stack[top];
                }
            }
        }
        stack[0]
    }
}

#[cfg(test)]
mod tests {
    use super::{SegmentOp::*, *};
    use proptest::prelude::*;

    fn has(name: &str) -> SegmentOp {
        Has(name.to_owned())
    }

    #[derive(Debug, Clone)]
    enum Tree {
        Has(u8),
        Not(Box<Tree>),
        Two(bool, Box<Tree>, Box<Tree>),
    }

    impl Tree {
        fn prefix(&self, ops: &mut Vec<SegmentOp>) {
            match self {
                Self::Has(n) => ops.push(has(&n.to_string())),
                Self::Not(a) => {
                    ops.push(Not);
                    a.prefix(ops);
                }
                Self::Two(and, a, b) => {
                    ops.push(if *and { And } else { Or });
                    a.prefix(ops);
                    b.prefix(ops);
                }
            }
        }

        fn holds(&self, set: &[u8]) -> bool {
            match self {
                Self::Has(n) => set.contains(n),
                Self::Not(a) => !a.holds(set),
                Self::Two(true, a, b) => a.holds(set) && b.holds(set),
                Self::Two(false, a, b) => a.holds(set) || b.holds(set),
            }
        }
    }

    fn tree() -> impl Strategy<Value = Tree> {
        (0u8..5).prop_map(Tree::Has).prop_recursive(4, 32, 2, |inner| {
            prop_oneof![
                inner.clone().prop_map(|a| Tree::Not(a.into())),
                (any::<bool>(), inner.clone(), inner).prop_map(|(and, a, b)| Tree::Two(
                    and,
                    a.into(),
                    b.into()
                )),
            ]
        })
    }

    proptest! {
        /// Compares the program with the expression, for a first evaluation and for repeated ones.
        #[test]
        fn answers_as_the_expression(
            tree in tree(), sets in prop::collection::vec(prop::collection::vec(0u8..5, 0..5), 1..12),
        ) {
            let mut ops = Vec::new();
            tree.prefix(&mut ops);
            let mut program = Program::compile(&ops).unwrap();
            let mut words = Vocabulary::new();
            for set in sets.iter().chain(&sets) {
                let index = words.intern_segments(&set.iter().map(u8::to_string).collect::<Vec<_>>());
                prop_assert_eq!(program.matches(&words, index), tree.holds(set));
            }
        }

        /// Checks that malformed expressions are refused, and that accepted ones can be evaluated.
        #[test]
        fn malformed_expressions_are_refused(
            ops in prop::collection::vec(prop_oneof![Just(And), Just(Or), Just(Not), Just(has("a"))], 0..70),
        ) {
            let missing = ops.iter().try_fold(1i32, |missing, op| match op {
                _ if missing == 0 => None,
                Has(_) => Some(missing - 1),
                Not => Some(missing),
                And | Or => Some(missing + 1),
            });
            let whole = ops.is_empty() || missing == Some(0);
            match Program::compile(&ops) {
                Ok(mut program) => {
                    prop_assert!(whole);
                    program.matches(&Vocabulary::new(), SegmentsIndex::EMPTY);
                }
                Err(ProgramError::TooDeep) => {}
                Err(_) => prop_assert!(!whole),
            }
        }
    }

    #[test]
    fn errors_name_the_place() {
        let error = |ops: &[SegmentOp]| Program::compile(ops).unwrap_err();
        assert_eq!(
            error(&[Or, Not, And, has("a"), has("b")]),
            ProgramError::OperandMissing { at: 0 }
        );
        assert_eq!(error(&[has("a"), Not]), ProgramError::OperandMissing { at: 1 });
        assert_eq!(error(&[has("a"), has("b")]), ProgramError::Surplus { surplus: 1 });
        assert_eq!(error(&vec![Not; OPS_MAX + 1]), ProgramError::TooLong { ops: OPS_MAX + 1 });
        let deep: Vec<_> =
            (0..DEPTH_MAX).map(|_| And).chain((0..=DEPTH_MAX).map(|_| has("a"))).collect();
        assert_eq!(error(&deep), ProgramError::TooDeep);
    }

    /// A set that the full vocabulary refused matches only the empty expression, and no other, not
    /// even a negated one.
    #[test]
    fn an_unknown_set_gets_what_everybody_gets() {
        let words = Vocabulary::new();
        assert!(Program::compile(&[]).unwrap().matches(&words, SegmentsIndex::UNKNOWN));
        assert!(
            !Program::compile(&[Not, has("a")]).unwrap().matches(&words, SegmentsIndex::UNKNOWN)
        );
    }
}
