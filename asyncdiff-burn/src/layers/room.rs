//! Room for the results of kernels, which is used again: the system clears the memory that it gives, and for large feature maps
//! that takes as long as a layer of theirs.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "flex")]
use std::mem::MaybeUninit;

#[cfg(feature = "flex")]
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

/// Numbers whose memory an allocator asks of the system anew each time; of fewer, it keeps what it had. 32 MiB, as of glibc.
const MANY: usize = 1 << 23;

static ROOMS: Mutex<Rooms> = Mutex::new(Rooms {
    reusers: 0,
    free: Vec::new(),
    used: 0,
    kept: 0,
    most: 0,
});

/// Room of [`MANY`] numbers and more. There is never more of it than was in use at some moment.
struct Rooms {
    /// How many [`Reuse`] there are.
    reusers: usize,
    /// What nobody uses, in no order.
    free: Vec<Vec<f32>>,
    /// Numbers in use, numbers that are free, and the most that were in use at once.
    used: usize,
    kept: usize,
    most: usize,
}

/// As long as there is one, room whose result is no longer needed is kept for those that follow.
#[derive(Debug)]
pub struct Reuse(());

impl Reuse {
    /// Something begins whose layers run one after another, and maybe often.
    #[must_use]
    pub fn begin() -> Self {
        rooms().reusers += 1;
        Self(())
    }
}

impl Drop for Reuse {
    fn drop(&mut self) {
        let mut rooms = rooms();
        rooms.reusers -= 1;
        if rooms.reusers == 0 {
            rooms.free.clear();
            (rooms.kept, rooms.most) = (0, rooms.used);
        }
    }
}

fn rooms() -> MutexGuard<'static, Rooms> {
    ROOMS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rooms {
    fn take(&mut self, count: usize) -> Option<Vec<f32>> {
        let fits = |room: &Vec<f32>| (count..=count + count / 4).contains(&room.capacity());
        let index = self.free.iter().position(fits);
        let room = index.map(|index| self.free.swap_remove(index));
        let capacity = room.as_ref().map_or(count, Vec::capacity);
        self.used += capacity;
        if room.is_some() {
            self.kept -= capacity;
        }
        self.most = self.most.max(self.used);
        while self.used + self.kept > self.most {
            self.kept -= self.free.pop().map_or(self.kept, |room| room.capacity());
        }
        room
    }

    #[cfg(feature = "flex")]
    fn give(&mut self, room: Vec<f32>) {
        // What a kernel that panicked had taken never comes back.
        self.used = self.used.saturating_sub(room.capacity());
        if self.reusers > 0 {
            self.kept += room.capacity();
            self.free.push(room);
        }
    }
}

/// So many numbers, whichever: a kernel writes all of its result.
pub(super) fn room(count: usize) -> Vec<f32> {
    if count < MANY {
        return vec![0.0; count];
    }
    let kept = rooms().take(count);
    let mut room = kept.unwrap_or_else(|| asyncdiff_kernels::zeros(count));
    room.resize(count, 0.0);
    room
}

/// A result as a tensor holds it, which gives the room back in the end.
#[cfg(feature = "flex")]
pub(super) fn bytes(result: Vec<f32>) -> Bytes {
    if result.len() < MANY {
        return Bytes::from_elems(result);
    }
    let length = size_of_val(&*result);
    // SAFETY: as many bytes are there, all of them written.
    unsafe { Bytes::from_controller(Box::new(Kept(result)), length) }
}

#[cfg(feature = "flex")]
struct Kept(Vec<f32>);

#[cfg(feature = "flex")]
impl Drop for Kept {
    fn drop(&mut self) {
        rooms().give(std::mem::take(&mut self.0));
    }
}

#[cfg(feature = "flex")]
impl AllocationController for Kept {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.0);
        let (start, length) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the same bytes, which the caller promises to write only what is initialized to.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), length) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.0);
        // SAFETY: the same bytes, seen as what may be uninitialized.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn what_a_tensor_drops_is_room_for_the_next_as_long_as_somebody_wants_it() {
        let reuse = Reuse::begin();
        // Of a size that no other test uses.
        let count = MANY + 12345;
        let mut first = room(count);
        first.fill(1.0);
        let place = first.as_ptr();
        let held = bytes(first);
        assert_eq!(held.len(), 4 * count);
        assert!(held.chunks(4).all(|number| number == 1.0f32.to_le_bytes()));
        let meanwhile = bytes(room(count));
        assert_ne!(meanwhile.as_ptr(), place.cast());
        drop(held);
        let second = room(count - 100);
        assert_eq!((second.as_ptr(), second.len()), (place, count - 100));
        drop((bytes(second), meanwhile));
        assert!(rooms().kept >= 2 * count);
        drop(reuse);
        let rooms = rooms();
        assert_eq!((rooms.kept, rooms.free.len()), (0, 0));
    }
}
