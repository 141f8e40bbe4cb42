//! Which generation a ceremony uses.
//!
//! Spec: dkg, section 0.1; design §6. Identify carries what each peer serves; the agent version does
//! not tell. The newest that all have is used by all, and it is known before anything is signed.

use libp2p::PeerId;

use super::wire::Generation;

/// What one peer serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serves {
    /// The peer.
    pub peer: PeerId,
    /// Newest first; `None` while it has not told.
    pub generations: Option<Vec<Generation>>,
}

impl std::fmt::Display for Serves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "peer {} ", self.peer)?;
        match self.generations.as_deref() {
            None => f.write_str("has not told"),
            Some([]) => f.write_str("has none"),
            Some(all) => {
                f.write_str("has ")?;
                for (at, generation) in all.iter().enumerate() {
                    let sep = if at == 0 { "" } else { " and " };
                    write!(f, "{sep}{generation}")?;
                }
                Ok(())
            }
        }
    }
}

/// What follows from what is known of the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All have it, and none newer.
    Chosen(Generation),
    /// Somebody has not told, or serves none yet: a node may be told of before its ceremony begins.
    Open,
    /// All serve one, and there is none that all do.
    Disjoint,
}

/// Chooses among `ours`.
#[must_use]
pub fn choose(ours: &[Generation], peers: &[Serves]) -> Choice {
    let mut lists = Vec::with_capacity(peers.len());
    for peer in peers {
        match peer.generations.as_deref() {
            None | Some([]) => return Choice::Open,
            Some(list) => lists.push(list),
        }
    }
    let common = ours
        .iter()
        .filter(|ours| lists.iter().all(|list| list.contains(ours)));
    common
        .max()
        .map_or(Choice::Disjoint, |it| Choice::Chosen(*it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Generation::{V1, V2};

    #[test]
    fn the_newest_that_all_have_is_chosen() {
        let both = &[V2, V1][..];
        for (ours, peers, expected) in [
            (both, vec![], Choice::Chosen(V2)),
            (both, vec![both, both], Choice::Chosen(V2)),
            (both, vec![both, &[V1]], Choice::Chosen(V1)),
            (both, vec![&[V2], both], Choice::Chosen(V2)),
            (&[V1], vec![both, both], Choice::Chosen(V1)),
            (&[V1], vec![both, &[V2]], Choice::Disjoint),
            (both, vec![&[V1], &[V2]], Choice::Disjoint),
            (both, vec![both, &[]], Choice::Open),
        ] {
            let peers: Vec<_> = peers.into_iter().map(|list| serves(Some(list))).collect();
            assert_eq!(choose(ours, &peers), expected, "{ours:?} {peers:?}");
        }
        assert_eq!(choose(both, &[serves(None)]), Choice::Open);
    }

    #[test]
    fn both_protocols_of_a_generation_make_it_served() {
        assert_eq!(Generation::served(&[V1.sig(), V2.msg(), V2.sig()]), [V2]);
        assert_eq!(Generation::served(&[V1.sig()]), []);
    }

    #[test]
    fn who_has_what_is_said_in_words() {
        let peer = PeerId::random();
        let says = |generations| Serves { peer, generations }.to_string();

        assert_eq!(says(None), format!("peer {peer} has not told"));
        assert_eq!(says(Some(vec![])), format!("peer {peer} has none"));
        let both = says(Some(vec![V2, V1]));
        assert_eq!(both, format!("peer {peer} has 2.0.0 and 1.0.0"));
    }

    fn serves(list: Option<&[Generation]>) -> Serves {
        Serves {
            peer: PeerId::random(),
            generations: list.map(<[_]>::to_vec),
        }
    }
}
