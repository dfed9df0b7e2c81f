//! Numbers for templates: one for each message of each app of each wave, small and reused, so that
//! a connection can keep its encoded templates in a plain vector.

/// Gives out the lowest numbers that are free.
#[derive(Debug, Default)]
pub(crate) struct TemplateIds {
    free: std::collections::BTreeSet<u32>,
    next: u32,
}

impl TemplateIds {
    pub(crate) fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Every connection has forgotten this template.
    pub(crate) fn release(&mut self, id: u32) {
        self.free.insert(id);
    }
}
