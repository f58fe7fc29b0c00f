//! Frames that are nearly right: what a member would send, with some facts changed, and bytes of no meaning at all.

use std::net::Ipv4Addr;

use super::World;
use crate::datapath::{Member, arp_request, datagram_of, ethernet, icmpv6, tagged};
use privnet_ebpf::net::MacAddr;

/// The longest frame: `BPF_PROG_TEST_RUN` takes what fits in a page beside the kernel's own.
const LONGEST: usize = 3000;
/// Values of 16 bits where something changes.
const EDGES: [u16; 20] =
    [0, 1, 2, 20, 27, 28, 29, 41, 42, 60, 67, 68, 0x0600, 0x0800, 0x0806, 0x2000, 0x3fff, 0x8100, 0x86dd, 0xffff];
/// Where a field of Ethernet, IPv4, UDP, ARP or a tag begins, and its length.
const FIELDS: [(usize, usize); 24] = [
    (0, 6),
    (6, 6),
    (12, 2),
    (14, 1),
    (14, 2),
    (16, 2),
    (18, 2),
    (20, 2),
    (22, 1),
    (23, 1),
    (22, 6),
    (26, 4),
    (28, 4),
    (30, 4),
    (32, 6),
    (34, 2),
    (36, 2),
    (38, 2),
    (38, 4),
    (40, 2),
    (12, 4),
    (16, 1),
    (54, 1),
    (20, 1),
];

/// Numbers from a seed (splitmix64): the same for ever, whatever a library thinks of its generators.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of frame `number` of a run.
    pub fn of_frame(seed: u64, number: u64) -> Self {
        let mut dice = Self(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        dice.roll();
        dice
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn byte(&mut self) -> u8 {
        self.roll() as u8
    }
}

/// A frame that comes in by `ifindex`; `from` tells whose it pretends to be when it pretends nothing special.
pub fn frame(dice: &mut Dice, world: &World, from: Option<Member>) -> Vec<u8> {
    let mut frame = base(dice, world, from);
    let changes = match dice.below(20) {
        0..=5 => 0,
        6..=13 => 1,
        14..=17 => 2,
        _ => 2 + dice.below(6),
    };
    for _ in 0..changes {
        change(dice, world, &mut frame);
    }
    frame.truncate(LONGEST);
    frame
}

/// As long as `BPF_PROG_TEST_RUN` demands: an Ethernet header, and the whole IP header that it announces.
pub fn lengthen(frame: &mut Vec<u8>) {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 14,
    };
    if frame.len() < least {
        frame.resize(least, 0);
    }
}

fn base(dice: &mut Dice, world: &World, from: Option<Member>) -> Vec<u8> {
    let from = from.filter(|_| dice.below(8) > 0).unwrap_or_else(|| dice.pick(&world.people));
    let to = dice.pick(&world.people);
    match dice.below(16) {
        0..=9 => {
            let payload = match dice.below(6) {
                0 => 0,
                1 => dice.below(1400),
                _ => dice.pick(&[1, 4, 32, 92, 148]),
            };
            datagram_of(from, to, payload)
        }
        10..=12 => arp_request(from, to.address),
        13 => {
            let kind = dice.pick(&[128, 133, 134, 135, 136, 137]);
            icmpv6(from, kind)
        }
        14 => {
            let mut frame = ethernet(to.mac, from.mac, dice.pick(&[0x0800, 0x0806, 0x86dd, 0x8100, 0x88cc, 0x0004]));
            frame.extend((0..dice.below(120)).map(|_| 0).collect::<Vec<u8>>());
            frame[14..].iter_mut().for_each(|byte| *byte = dice.byte());
            frame
        }
        _ => {
            let length = 14 + dice.below(200);
            (0..length).map(|_| dice.byte()).collect()
        }
    }
}

fn change(dice: &mut Dice, world: &World, frame: &mut Vec<u8>) {
    match dice.below(12) {
        0..=4 => {
            let (offset, length) = dice.pick(&FIELDS);
            let value = value(dice, world, length);
            overwrite(frame, offset, &value);
        }
        5 => {
            let at = dice.below(frame.len().min(64));
            frame[at] ^= 1 << dice.below(8);
        }
        6 => {
            let at = dice.below(frame.len());
            frame[at] = dice.byte();
        }
        7 => {
            let length = 14 + dice.below(frame.len() - 13);
            frame.truncate(length);
        }
        8 => {
            let more = 1 + dice.below(40);
            frame.extend((0..more).map(|_| dice.byte()).collect::<Vec<u8>>());
        }
        9 => {
            let tag = dice.pick(&[0x8100, 0x88a8, 0x9100]);
            *frame = tagged(frame, tag);
        }
        10 => with_options(dice, frame),
        _ => addresses(dice, world, frame),
    }
}

/// Makes both lengths of a datagram right again, and gives it the ports and addresses of others.
fn addresses(dice: &mut Dice, world: &World, frame: &mut [u8]) {
    let (one, other) = (dice.pick(&world.people), dice.pick(&world.people));
    let outside = dice.pick(&[[192, 0, 2, 1], [10, 239, 255, 255], [10, 240, 4, 0], [0; 4], [224, 0, 0, 1]]);
    let source = if dice.below(2) == 0 { one.address.octets() } else { outside };
    let destination = if dice.below(2) == 0 { other.address.octets() } else { outside };
    overwrite(frame, 26, &source);
    overwrite(frame, 30, &destination);
    overwrite(frame, 34, &one.port.to_be_bytes());
    overwrite(frame, 36, &other.port.to_be_bytes());
}

/// Four bytes of IPv4 options, with the lengths to match.
fn with_options(dice: &mut Dice, frame: &mut Vec<u8>) {
    if frame.len() < 34 {
        return;
    }
    let options = dice.roll().to_be_bytes();
    frame.splice(34..34, options[..4].iter().copied());
    frame[14] = 0x46;
    let total = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX);
    frame[16..18].copy_from_slice(&total.to_be_bytes());
}

fn value(dice: &mut Dice, world: &World, length: usize) -> Vec<u8> {
    let who = dice.pick(&world.people);
    match length {
        6 => match dice.below(4) {
            0 => MacAddr::of_member(who.address.octets(), dice.byte()).bytes().to_vec(),
            1 => dice.pick(&[[0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]]).to_vec(),
            _ => who.mac.bytes().to_vec(),
        },
        4 => match dice.below(4) {
            0 => dice.roll().to_be_bytes()[..4].to_vec(),
            1 => Ipv4Addr::new(10, 240, dice.byte() & 7, dice.byte()).octets().to_vec(),
            _ => who.address.octets().to_vec(),
        },
        2 => match dice.below(3) {
            0 => who.port.to_be_bytes().to_vec(),
            1 => dice.pick(&EDGES).to_be_bytes().to_vec(),
            _ => dice.roll().to_be_bytes()[..2].to_vec(),
        },
        _ => vec![dice.pick(&[0, 1, 2, 6, 17, 58, 0x44, 0x45, 0x46, 0x4f, 0x65, 134, 0xff]); length],
    }
}

fn overwrite(frame: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(field) = frame.get_mut(offset..offset + value.len()) {
        field.copy_from_slice(value);
    }
}
