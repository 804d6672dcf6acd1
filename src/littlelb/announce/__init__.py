"""TELLS the network: address probes, gratuitous ARP, unsolicited neighbour advertisements."""
