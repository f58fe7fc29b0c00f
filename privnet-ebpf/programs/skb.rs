//! The one file that touches a packet: its bytes, its metadata, and where it goes. Everything is copied, in or out;
//! no pointer into the packet exists, so none can go stale.

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
use privnet_ebpf::packet::Frame;

/// `BPF_HDR_START_NET` of include/uapi/linux/bpf.h.
const HEADER_START_NETWORK: u32 = 1;

/// The packet that a program was called for.
pub struct Skb<'a> {
    skb: *mut __sk_buff,
    _context: PhantomData<&'a TcContext>,
}

/// The same packet, read from its network header on: interfaces without Ethernet have nothing before it.
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

    /// The packet without what precedes its network header.
    #[inline(always)]
    pub fn from_network_header(&'a self) -> FromNetworkHeader<'a> {
        FromNetworkHeader(self)
    }

    /// The interface that the program is attached to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        field!(self.ifindex)
    }

    /// The EtherType that the kernel read: of what is inside a tag that it took off.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        // The kernel stores it in the order of the wire, widened.
        u16::from_be(field!(self.protocol) as u16)
    }

    /// Whether the kernel took a VLAN tag off the frame.
    #[inline(always)]
    pub fn tag_was_taken_off(&self) -> bool {
        field!(self.vlan_present) != 0
    }

    /// The packets that the frame stands for: more than one when a device or a socket left the segmentation for later.
    #[inline(always)]
    pub fn packets(&self) -> u64 {
        match field!(self.gso_segs) {
            0 => 1,
            segments => u64::from(segments),
        }
    }

    /// Nanoseconds of `CLOCK_BOOTTIME`.
    #[inline(always)]
    pub fn boot_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and reads a clock.
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

    /// Out of the interface `ifindex` of this namespace; the action to return.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: the helper takes numbers; an interface that is gone makes the kernel drop the frame.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    /// Into the namespace behind the veth `ifindex` of this one, without a queue in between; the action to return.
    #[inline(always)]
    pub fn redirect_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: the helper takes numbers; an interface that is gone or no veth makes the kernel drop the frame.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }
}

impl Skb<'_> {
    /// Where the byte at `offset` is, if it is in the linear part of the packet.
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

    /// Also reads what is not in the linear part of the packet.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut at = self.at(offset);
        if !self.is_linear(at, N) {
            // SAFETY: `skb` is the program's context (`Skb::new`). The helper moves the packet, and no pointer into it is
            // used after this; it fails when the frame is too short, and then so does what follows.
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

/// Bytes at an address that makes the compiler load them in words instead of one by one.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

impl<const N: usize> Aligned<N> {
    /// The bytes that `fill` wrote, when it returns 0; it is given room for `N`.
    #[inline(always)]
    fn filled(fill: impl FnOnce(*mut c_void) -> i64) -> Option<[u8; N]> {
        // Zeroing first would be a loop over the bytes, a third of the program's time.
        let mut bytes = MaybeUninit::<Self>::uninit();
        if fill(bytes.as_mut_ptr().cast()) != 0 {
            return None;
        }
        // SAFETY: `fill` is a helper that returns 0 only after they wrote all `N` bytes.
        Some(unsafe { bytes.assume_init() }.0)
    }
}
