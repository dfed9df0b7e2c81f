//! Numbers of templates: one for each message of each app of each wave, small and reused, so that a
//! connection can keep its encoded templates in a plain vector.

/// Allocator of template numbers, which returns the lowest free one.
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

    /// Frees the number of a template that every connection has forgotten.
    pub(crate) fn release(&mut self, id: u32) {
        self.free.insert(id);
    }
}
