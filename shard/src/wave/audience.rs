//! Who is addressed: an expression over segments, decided once per set of segments.
//!
//! Devices share sets of segments: a million devices have some thousand. The answer for a set never changes (sets are
//! never changed, see [`Vocabulary`]), so each is worked out when first met and remembered in a byte.

use crate::{
    command::SegmentOp,
    partition::{SegmentsIndex, Vocabulary},
};

/// Operations of one expression.
pub const OPS_MAX: usize = 256;
/// Operands open at once while it is worked out; bounds the stack of the evaluation.
pub const DEPTH_MAX: usize = 32;

/// A checked expression with its answers so far. One for each wave and core, as vocabularies are of a core.
#[derive(Debug, Clone)]
pub struct Program {
    /// In postfix order, so that a stack of booleans suffices.
    ops: Vec<SegmentOp>,
    /// By index of the set.
    memo: Vec<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    NotAsked,
    Yes,
    No,
}

/// An expression that cannot be taken: a defect of the sender; another try cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// Too long.
    #[error("an audience has at most {OPS_MAX} operations, not {ops}")]
    TooLong {
        /// Its length.
        ops: usize,
    },
    /// Too deep.
    #[error("an audience is at most {DEPTH_MAX} deep")]
    TooDeep,
    /// An operator without its operands.
    #[error("the operation at {at} lacks an operand")]
    OperandMissing {
        /// From 0, in prefix order.
        at: usize,
    },
    /// Something after the end of the expression.
    #[error("{surplus} operations stand before or after a whole expression")]
    Surplus {
        /// How many whole expressions too many.
        surplus: usize,
    },
}

impl Program {
    /// Checks an expression in prefix form; an empty one addresses everybody.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn compile(prefix: &[SegmentOp]) -> Result<Self, ProgramError> {
        if prefix.len() > OPS_MAX {
            return Err(ProgramError::TooLong { ops: prefix.len() });
        }
        // Prefix form read backwards is postfix form with the operands of each operator swapped, and both operators
        // that have two do not mind.
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

    /// Whether devices with this set of segments are addressed. An unknown set is addressed only with everybody.
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
