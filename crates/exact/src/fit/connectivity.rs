//! Whether the strengths have a finite maximum: the graph of who beat whom must be strongly connected.
//!
//! If the items can be split in two groups such that no item of the second was ever placed level with or above one
//! of the first, moving all strengths of the first group up raises the likelihood for ever (Ford 1957; Hunter 2004,
//! "MM algorithms for generalized Bradley-Terry models", assumption 1). A tie counts both ways: in Davidson-Luce it
//! pulls its items together.

use super::dataset::Dataset;

/// Groups of items between which the data are one-sided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Finding {
    /// Every item can be reached from every other through wins.
    Connected,
    /// The group, smaller than all, shares no observation with the others.
    Separate(Vec<usize>),
    /// The group never lost to any other item.
    Unbeaten(Vec<usize>),
    /// The group never beat any other item.
    Winless(Vec<usize>),
}

/// Looks for the smallest group of items that keeps the data from being strongly connected.
pub(super) fn examine(data: &Dataset) -> Finding {
    let items = data.names().len();
    let beaten = beaten_by(data);
    let component = components(&beaten);
    let groups = component.iter().copied().max().map_or(0, |largest| largest + 1);
    if groups <= 1 {
        return Finding::Connected;
    }
    // Which components are beaten by, and beat, another one.
    let (mut loses, mut wins) = (vec![false; groups], vec![false; groups]);
    for (winner, losers) in beaten.iter().enumerate() {
        for &loser in losers {
            if component[winner] != component[loser] {
                wins[component[winner]] = true;
                loses[component[loser]] = true;
            }
        }
    }
    let mut members = vec![vec![]; groups];
    for item in 0..items {
        members[component[item]].push(item);
    }
    let finding = |group: usize| match (wins[group], loses[group]) {
        (false, false) => Some(Finding::Separate(members[group].clone())),
        (true, false) => Some(Finding::Unbeaten(members[group].clone())),
        (false, true) => Some(Finding::Winless(members[group].clone())),
        (true, true) => None,
    };
    let mut order: Vec<usize> = (0..groups).collect();
    order.sort_by_key(|&group| members[group].len());
    // A graph of components has no cycle, so one of them is unbeaten.
    order.into_iter().find_map(finding).unwrap_or(Finding::Connected)
}

/// For every item, the items that were ranked level with it or below it.
///
/// Adjacent places are enough: what is two places down is reached through the place between.
fn beaten_by(data: &Dataset) -> Vec<Vec<usize>> {
    let mut beaten = vec![vec![]; data.names().len()];
    for (ranking, _) in data.counts() {
        let mut start = 0;
        for (place, &size) in ranking.groups.iter().enumerate() {
            let end = start + size;
            let next = match ranking.groups.get(place + 1) {
                Some(&size) => &ranking.items[end..end + size],
                None => &ranking.items[end..],
            };
            let tied = &ranking.items[start..end];
            for (first, &winner) in tied.iter().enumerate() {
                // A tie is a ring: each reaches the next, the last the first.
                if size > 1 {
                    beaten[winner].push(tied[(first + 1) % size]);
                }
            }
            // Through the ring the whole place reaches what its first item beats.
            beaten[tied[0]].extend(next);
            start = end;
        }
    }
    for losers in &mut beaten {
        losers.sort_unstable();
        losers.dedup();
    }
    beaten
}

/// The strongly connected component of every node (Tarjan 1972), with a stack of its own instead of recursion.
fn components(edges: &[Vec<usize>]) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let nodes = edges.len();
    let (mut number, mut low) = (vec![UNSEEN; nodes], vec![0; nodes]);
    let mut component = vec![UNSEEN; nodes];
    let (mut next_number, mut next_component) = (0, 0);
    let mut open = Vec::new();
    for root in 0..nodes {
        if number[root] != UNSEEN {
            continue;
        }
        // Each entry: a node and how many of its edges have been followed.
        let mut path = vec![(root, 0)];
        while let Some((node, followed)) = path.pop() {
            if followed == 0 {
                number[node] = next_number;
                low[node] = next_number;
                next_number += 1;
                open.push(node);
            } else {
                let child = edges[node][followed - 1];
                if component[child] == UNSEEN {
                    low[node] = low[node].min(low[child]);
                }
            }
            let unseen = edges[node][followed..]
                .iter()
                .position(|&child| number[child] == UNSEEN);
            // Edges to nodes that were seen and are still open tie this node to them.
            let until = unseen.map_or(edges[node].len(), |ahead| followed + ahead);
            for &child in &edges[node][followed..until] {
                if component[child] == UNSEEN {
                    low[node] = low[node].min(number[child]);
                }
            }
            if unseen.is_some() {
                path.push((node, until + 1));
                path.push((edges[node][until], 0));
            } else if low[node] == number[node] {
                while let Some(member) = open.pop() {
                    component[member] = next_component;
                    if member == node {
                        break;
                    }
                }
                next_component += 1;
            }
        }
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compared(pairs: &[(&str, &str)]) -> Dataset {
        let mut data = Dataset::new();
        for (winner, loser) in pairs {
            data.add_comparison(winner, loser, 1.0).unwrap();
        }
        data
    }

    #[test]
    fn a_cycle_is_connected_and_a_chain_is_not() {
        assert_eq!(
            examine(&compared(&[("a", "b"), ("b", "c"), ("c", "a")])),
            Finding::Connected
        );
        assert_eq!(examine(&compared(&[("b", "c"), ("a", "b")])), Finding::Winless(vec![1]));
        let unbeaten = compared(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "c")]);
        assert_eq!(examine(&unbeaten), Finding::Unbeaten(vec![0, 1]));
        let separate = compared(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "e"), ("e", "c")]);
        assert_eq!(examine(&separate), Finding::Separate(vec![0, 1]));
    }

    #[test]
    fn ties_connect_and_places_win_over_all_below() {
        let mut data = compared(&[("a", "b")]);
        data.add_tie("a", "b", 1.0).unwrap();
        assert_eq!(examine(&data), Finding::Connected);
        let mut data = Dataset::new();
        data.add_ranking(&[vec!["a"], vec!["b", "c"]], &["d"], 1.0).unwrap();
        data.add_comparison("d", "a", 1.0).unwrap();
        assert_eq!(examine(&data), Finding::Connected);
    }

    proptest! {
        #[test]
        fn components_are_mutual_reachability(edges in prop::collection::vec((0..9usize, 0..9usize), 0..25)) {
            let mut lists = vec![vec![]; 9];
            let mut reach = [[false; 9]; 9];
            for (from, to) in edges {
                lists[from].push(to);
                reach[from][to] = true;
            }
            (0..9).for_each(|i| reach[i][i] = true);
            for via in 0..9 {
                for from in 0..9 {
                    for to in 0..9 {
                        reach[from][to] |= reach[from][via] && reach[via][to];
                    }
                }
            }
            let component = components(&lists);
            for a in 0..9 {
                for b in 0..9 {
                    prop_assert_eq!(component[a] == component[b], reach[a][b] && reach[b][a]);
                }
            }
        }
    }
}
