//! The packet: its bytes, its metadata, and its redirection. No other file touches it. Bytes are copied in and out, and
//! no pointer into the packet outlives a function, so no helper can make one stale.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{
    bpf_ktime_get_boot_ns, bpf_redirect, bpf_redirect_peer, bpf_skb_load_bytes_relative, bpf_skb_pull_data,
    bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use privnet_ebpf::abi::Tally;
use privnet_ebpf::packet::Frame;

/// `BPF_HDR_START_NET` of include/uapi/linux/bpf.h.
const HEADER_START_NETWORK: u32 = 1;

/// The packet that a program was called for.
pub struct Skb<'a> {
    skb: *mut __sk_buff,
    _context: PhantomData<&'a TcContext>,
}

/// The packet from its network header on; on an interface without Ethernet that is its first byte.
pub struct FromNetworkHeader<'a>(&'a Skb<'a>);

macro_rules! field {
    ($self:ident.$field:ident) => {{
        // SAFETY: `skb` is the context that the kernel passed to the program (`Skb::new`), valid until it returns;
        // the verifier turns the load of a context field into a load of the kernel's own structure.
        unsafe { (*$self.skb).$field }
    }};
}

impl<'a> Skb<'a> {
    /// The packet of `context`.
    #[inline(always)]
    pub fn new(context: &'a TcContext) -> Self {
        Self { skb: context.as_ptr().cast(), _context: PhantomData }
    }

    /// The packet from its network header on.
    #[inline(always)]
    pub fn from_network_header(&'a self) -> FromNetworkHeader<'a> {
        FromNetworkHeader(self)
    }

    /// The interface that the program is attached to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        field!(self.ifindex)
    }

    /// The EtherType that the kernel read; behind a VLAN tag that the kernel took off, that of the payload.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        // The field holds the two bytes in the order of the wire, in a u32.
        u16::from_be(field!(self.protocol) as u16)
    }

    /// Whether the kernel took a VLAN tag off the frame.
    #[inline(always)]
    pub fn tag_was_taken_off(&self) -> bool {
        field!(self.vlan_present) != 0
    }

    /// What it is counted as.
    #[inline(always)]
    pub fn tally(&self) -> Tally {
        Tally::of_frame(field!(self.len), field!(self.gso_segs), field!(self.gso_size))
    }

    /// Nanoseconds of `CLOCK_BOOTTIME`.
    #[inline(always)]
    pub fn boot_ns(&self) -> u64 {
        // SAFETY: the helper has no arguments and reads a clock.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    /// Overwrites `N` bytes of the frame from `offset`.
    #[inline(always)]
    pub fn write<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Result<(), i64> {
        // SAFETY: `bytes` is readable for the `N` bytes that are named, and `skb` is the program's context
        // (`Skb::new`); the helper checks the offset against the frame.
        let code = unsafe { bpf_skb_store_bytes(self.skb, offset, bytes.as_ptr().cast(), N as u32, 0) };
        if code == 0 { Ok(()) } else { Err(code) }
    }

    /// Sets the firewall mark to 0.
    #[inline(always)]
    pub fn clear_mark(&self) {
        // SAFETY: `skb` is the program's context (`Skb::new`), and `mark` is one of its writable fields.
        unsafe { (*self.skb).mark = 0 }
    }

    /// Redirects to the egress of the interface `ifindex` of this namespace; the action to return.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: the helper takes numbers; the kernel drops the frame when no such interface exists.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    /// Redirects to the ingress of the other end of the veth `ifindex`, past the queue of the veth; the action to
    /// return.
    #[inline(always)]
    pub fn redirect_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: the helper takes numbers; the kernel drops the frame when no such veth exists.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }
}

impl Skb<'_> {
    /// The address of the byte at `offset`, if the linear part of the packet has it.
    #[inline(always)]
    fn at(&self, offset: u32) -> usize {
        field!(self.data) as usize + offset as usize
    }

    /// Whether `bytes` from `at` are in the linear part of the packet.
    #[inline(always)]
    fn is_linear(&self, at: usize, bytes: usize) -> bool {
        at + bytes <= field!(self.data_end) as usize
    }
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn frame_bytes(&self) -> u32 {
        field!(self.len)
    }

    /// Reads the non-linear part of the packet, too.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut at = self.at(offset);
        if !self.is_linear(at, N) {
            // SAFETY: `skb` is the program's context (`Skb::new`). The helper may move the packet: `at` is computed
            // again, and checked again, because the helper fails when the frame is too short.
            unsafe { bpf_skb_pull_data(self.skb, offset + N as u32) };
            at = self.at(offset);
            if !self.is_linear(at, N) {
                return None;
            }
        }
        // SAFETY: `is_linear` checked that `N` bytes from `at` are within the packet, and nothing moved it since; an
        // array of bytes has alignment 1.
        Some(unsafe { *(at as *const [u8; N]) })
    }
}

impl Frame for FromNetworkHeader<'_> {
    #[inline(always)]
    fn frame_bytes(&self) -> u32 {
        self.0.frame_bytes()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        Aligned::filled(|to| {
            // SAFETY: `to` is writable for `N` bytes (`Aligned::filled`), and `skb` is the program's context
            // (`Skb::new`); the helper checks the offset against the frame and fails when it is too short.
            unsafe { bpf_skb_load_bytes_relative(self.0.skb.cast(), offset, to, N as u32, HEADER_START_NETWORK) }
        })
    }
}

/// Bytes aligned to 8, so that the compiler loads words and not single bytes.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

impl<const N: usize> Aligned<N> {
    /// The `N` bytes that `fill` wrote, when it returned 0.
    #[inline(always)]
    fn filled(fill: impl FnOnce(*mut c_void) -> i64) -> Option<[u8; N]> {
        // Zeroed memory would cost a loop over the bytes, a third of the program's time.
        let mut bytes = MaybeUninit::<Self>::uninit();
        if fill(bytes.as_mut_ptr().cast()) != 0 {
            return None;
        }
        // SAFETY: `fill` is a helper of the kernel, in the one call above, and returns 0 only after it wrote all `N`
        // bytes.
        Some(unsafe { bytes.assume_init() }.0)
    }
}
