//! Prefetch of memory lines that will be read soon, without waiting for them.
//!
//! An ordinary read would load them too, but a processor executes only some five hundred
//! instructions after a read that misses, and then stalls. A prefetch completes at once, and the
//! line arrives while other records are processed. Results never depend on prefetching: on a
//! processor without such an instruction here, the functions do nothing.

/// Prefetches the first cache line of an item.
#[inline]
pub(super) fn one<T>(item: &T) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    // SAFETY: PREFETCHT0 reads and writes nothing that a program can see, and faults at no address
    // (Intel SDM, volume 2, "PREFETCHh"). It counts as unsafe for its pointer, which here comes
    // from a reference, and for SSE, which every x86-64 has.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = item;
}

/// Prefetches each cache line of a slice of numbers or bytes.
#[inline]
pub(super) fn lines<T: Copy>(items: &[T]) {
    const LINE_BYTES: usize = 64;
    items.iter().step_by(LINE_BYTES / size_of::<T>()).for_each(one);
    // A slice that begins within a line may extend into one more.
    if let Some(last) = items.last() {
        one(last);
    }
}
