//! The memory of tensors: kept when it is freed, and in large pages.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, made fit for a program that allocates the same large tensors at every step. To be named as
/// the `#[global_allocator]` of such a program, which calls [`Memory::configure`] first.
///
/// With glibc on Linux it does two things; elsewhere it is the system's allocator as it is.
///
/// - **Freed memory is kept.** glibc gives each tensor of more than 128 KiB (growing to 32 MiB) a mapping of its own and
///   unmaps it when it is freed, so every step of a training run faults the same pages in again. Memory that was once
///   used stays with the process, up to its peak.
/// - **Pages are large.** The kernel is asked for pages of 2 MiB wherever a tensor lies. A matrix product walks over
///   hundreds of small pages at a time, and a processor that translates each address twice, as in a virtual machine,
///   spends a third of the product's time on it. Does nothing where the kernel's
///   `/sys/kernel/mm/transparent_hugepage/enabled` says `never`.
#[derive(Debug)]
pub struct Memory;

/// Blocks of at least this size have their surroundings in large pages: smaller ones hold no tensor worth it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: usize = 64 << 10;

impl Memory {
    /// Tells the C library's allocator to keep freed memory instead of giving it back to the system.
    pub fn configure() {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        linux::configure();
    }
}

// SAFETY: every method hands its own contract on to the system's allocator and returns what that returns; advice to the
// kernel about pages changes neither addresses nor contents.
#[expect(unsafe_code, reason = "an allocator")]
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let block = unsafe { System.alloc(layout) };
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if layout.size() >= LARGE {
            linux::ask_for_large_pages(block, layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if layout.size() >= LARGE {
            // SAFETY: the caller's.
            let block = unsafe { self.alloc(layout) };
            if !block.is_null() {
                // Asked for before it is touched. SAFETY: the block has that size.
                unsafe { block.write_bytes(0, layout.size()) };
            }
            return block;
        }
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        let block = unsafe { System.realloc(block, layout, size) };
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if size >= LARGE {
            linux::ask_for_large_pages(block, size);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {
    use std::sync::atomic::{AtomicUsize, Ordering};

    const MIB: usize = 1 << 20;

    /// A large page.
    const PAGE: usize = 2 * MIB;

    /// Blocks from this size on get a mapping of their own and lose it when they are freed.
    const OWN_MAPPING: usize = 1024 * MIB;

    /// Where the heap ended when the kernel was last asked.
    static ASKED: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn configure() {
        // The library before 2.35 takes no threshold above 32 MiB.
        let threshold = [OWN_MAPPING, 32 * MIB];
        let size = |bytes: usize| libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // SAFETY: `mallopt` only changes parameters of the allocator, under the allocator's own lock; any value is
        // either taken or refused by its return value.
        #[expect(unsafe_code, reason = "the allocator's parameters have no safe interface")]
        unsafe {
            let _ = threshold
                .into_iter()
                .any(|bytes| libc::mallopt(libc::M_MMAP_THRESHOLD, size(bytes)) == 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, size(64 * MIB));
            // One heap for all threads, so that what one frees another finds.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }

    /// Asks the kernel for large pages around a block that is about to be written.
    ///
    /// The heap is asked for as a whole whenever it has grown, before the new part is touched: a page that exists in
    /// small stays small.
    pub(super) fn ask_for_large_pages(block: *mut u8, size: usize) {
        // SAFETY: with 0, `sbrk` says where the heap ends.
        #[expect(unsafe_code, reason = "the end of the heap")]
        let end = unsafe { libc::sbrk(0) } as usize;
        let start = block as usize;
        if start == 0 {
            return;
        }
        if start + size <= end {
            let asked = ASKED.load(Ordering::Relaxed);
            if end > asked {
                let from = if asked == 0 { start } else { asked };
                advise(from / PAGE * PAGE, end);
                ASKED.store(end, Ordering::Relaxed);
            }
        } else if size >= PAGE {
            advise(start / PAGE * PAGE, start + size);
        }
    }

    fn advise(start: usize, end: usize) {
        // SAFETY: the advice changes how the kernel backs pages, never what they hold, and it goes for no more than what
        // is mapped; an answer that it cannot be followed changes nothing.
        #[expect(unsafe_code, reason = "advice to the kernel")]
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks hold what was written to them, come zeroed where that was asked for, and keep it as they grow.
    #[test]
    #[expect(unsafe_code, reason = "calls an allocator")]
    fn blocks_of_any_size_are_memory() {
        for size in [1, 100, 64 << 10, 3 << 20, 40 << 20] {
            let layout = Layout::from_size_align(size, 64).unwrap();
            // SAFETY: the layout is not empty; each block is freed with the layout that it has.
            unsafe {
                let block = Memory.alloc_zeroed(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(64));
                assert!(std::slice::from_raw_parts(block, size).iter().all(|&byte| byte == 0));
                block.write_bytes(7, size);
                let block = Memory.realloc(block, layout, 2 * size);
                assert!(std::slice::from_raw_parts(block, size).iter().all(|&byte| byte == 7));
                Memory.dealloc(block, Layout::from_size_align(2 * size, 64).unwrap());
            }
        }
    }
}
