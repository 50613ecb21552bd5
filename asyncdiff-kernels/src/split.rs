//! How work is shared out among the threads of the pool that a kernel is called in.

use std::marker::PhantomData;

/// Multiply-adds, or numbers of costly functions, that are worth waking another thread for: some tens of microseconds.
const WORTH: usize = 1 << 20;

/// Whether work of so many multiply-adds should be split.
pub(crate) fn worth_splitting(work: usize) -> bool {
    work >= WORTH && rayon::current_num_threads() > 1
}

/// A slice that several threads write to, each to parts of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    length: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: it gives access through an unsafe method alone, whose callers promise that no two threads use the same part.
unsafe impl Sync for Shared<'_> {}
// SAFETY: likewise.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            slice: PhantomData,
        }
    }

    /// A part of the slice.
    ///
    /// # Safety
    ///
    /// Nobody else may use any of it as long as the part is in use.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises that parts do not overlap"
    )]
    pub unsafe fn part(&self, from: usize, length: usize) -> &mut [f32] {
        assert!(from + length <= self.length, "a part inside");
        // SAFETY: it is inside the slice, which is borrowed mutably for 'a, and the caller promises that it is not shared.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), length) }
    }
}
