//! Memory for many numbers, in the system's large pages: a large allocation is faulted in many times faster so, and seldom
//! misses in the processor's tables of pages.

use bytemuck::Zeroable;

/// So many zeros, not yet written to, in large pages where the system has them and whole ones are in it.
#[must_use]
pub fn zeros<E: Zeroable>(count: usize) -> Vec<E> {
    let mut numbers = bytemuck::zeroed_vec(count);
    prefer(&mut numbers);
    numbers
}

/// The size of a large page, and what its address is a multiple of.
#[cfg(target_os = "linux")]
const PAGE: usize = 2 << 20;

/// Asks for large pages wherever whole ones are in the slice. It is a wish: what the system makes of it changes no number.
#[cfg(target_os = "linux")]
fn prefer<E>(numbers: &mut [E]) {
    let bytes = numbers.as_mut_ptr_range();
    let (start, end) = (bytes.start.cast::<u8>(), bytes.end.cast::<u8>());
    let before = start.align_offset(PAGE);
    let whole = (end.addr() - start.addr()).saturating_sub(before) / PAGE * PAGE;
    if whole > 0 {
        // SAFETY: the bytes are in the slice, and the advice leaves what they are.
        let _ = unsafe {
            rustix::mm::madvise(
                start.add(before).cast(),
                whole,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer<E>(_: &mut [E]) {}
