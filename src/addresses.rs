//! The machine's own addresses, as the kernel lists them below /proc/self/net.
//!
//! Not by getifaddrs(3): that asks over a netlink socket, a whole family of sockets that the unit's
//! sandbox would have to allow for a question that two files answer. What the addresses are for is
//! not decided here.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4: the routing tables as a tree, in which each address of the machine's own is a leaf.
const FIB_TRIE: &str = "/proc/self/net/fib_trie";
/// IPv6: a line for each address of an interface. Missing where the kernel has no IPv6.
const IF_INET6: &str = "/proc/self/net/if_inet6";

/// Addresses that are of use to others on the network: not link-local ones of IPv6, which mean
/// something else to each who reads them. IPv4 first; each family in the kernel's order; at most
/// `most` of each. What cannot be read has none.
pub fn own(most: usize) -> Vec<IpAddr> {
    let lines = |path| {
        let file = File::open(path).ok().map(BufReader::new);
        file.into_iter().flat_map(|file| file.lines().map_while(Result::ok))
    };
    let v4 = ipv4(lines(FIB_TRIE)).into_iter().take(most).map(IpAddr::V4);
    let v6 = ipv6(lines(IF_INET6)).into_iter().take(most).map(IpAddr::V6);
    v4.chain(v6).collect()
}

/// A leaf is "|-- ADDRESS", and below it stand the routes that it has; "/32 host LOCAL" is that of an
/// address of our own. It may stand in more tables than one.
fn ipv4(lines: impl Iterator<Item = String>) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in lines {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = leaf
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// "ADDRESS INDEX PREFIX SCOPE FLAGS NAME", numbers in hexadecimal, the address without colons.
fn ipv6(lines: impl Iterator<Item = String>) -> Vec<Ipv6Addr> {
    let address = |line: String| {
        let digits = line.split_ascii_whitespace().next().filter(|digits| digits.len() == 32)?;
        Some(Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?))
    };
    lines.filter_map(address).filter(|address| !address.is_unicast_link_local()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> impl Iterator<Item = String> {
        text.lines().map(str::to_owned)
    }

    #[test]
    fn leaves_of_our_own_are_found_once() {
        let trie = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.0.2.0/24 2 0 2
        +-- 192.0.2.0/26 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.17
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
     |-- 192.0.2.17
        /32 host LOCAL
     |-- 198.51.100.0
        /32 link UNICAST
        /32 host LOCAL
";
        let [own, loopback, both] = [Ipv4Addr::new(192, 0, 2, 17), Ipv4Addr::LOCALHOST, Ipv4Addr::new(198, 51, 100, 0)];
        assert_eq!(ipv4(lines(trie)), [own, loopback, both]);
    }

    #[test]
    fn interfaces_addresses_are_read_but_for_link_local_ones() {
        let table = "\
00000000000000000000000000000001 01 80 10 80       lo
fe800000000000005054fffffe123456 02 40 20 80     eth0
20010db8000000000000000000000007 02 40 00 00     eth0
";
        let expected: [Ipv6Addr; 2] = [Ipv6Addr::LOCALHOST, "2001:db8::7".parse().unwrap()];
        assert_eq!(ipv6(lines(table)), expected);
    }

    #[test]
    fn what_is_no_table_has_no_addresses() {
        let text = "|-- 300.1.2.3\n/32 host LOCAL\n|-- \nzz\n\n0123 x\nzz000000000000000000000000000000 01";
        assert_eq!(ipv4(lines(text)), [] as [Ipv4Addr; 0]);
        assert_eq!(ipv6(lines(text)), [] as [Ipv6Addr; 0]);
    }

    #[test]
    fn this_machine_has_its_loopback_address_in_the_table() {
        assert!(own(1000).contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{:?}", own(1000));
        assert!(own(0).is_empty());
    }
}
