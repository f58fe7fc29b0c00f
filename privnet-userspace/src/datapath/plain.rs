//! Plain data as keys and values of aya's maps.
#![expect(
    unsafe_code,
    reason = "aya's marker of plain data is an unsafe trait, and this is the one place that implements it"
)]

/// Carries a type of [`privnet_ebpf::abi`] into a map.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<T: bytemuck::Pod>(pub T);

// SAFETY: aya wants a type that can be made from any bytes and turned into bytes; `bytemuck::Pod` is exactly that
// promise, and `repr(transparent)` gives the wrapper the layout of what it wraps.
unsafe impl<T: bytemuck::Pod> aya::Pod for Plain<T> {}
