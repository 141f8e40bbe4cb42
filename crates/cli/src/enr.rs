//! `pluto create enr` and `pluto enr`.

use std::{error::Error, process::ExitCode};

use pluto_crypto::{enr::Enr, k1::SecretKey, keyfile};
use pluto_p2p::identity;

use crate::{
    args::DataDir,
    say::{note, say},
};

pub(crate) fn create(target: &DataDir) -> Result<ExitCode, Box<dyn Error>> {
    let path = target.data_dir.join(keyfile::FILE_NAME);
    let key = keyfile::create(&path)?;
    say!("Created the identity key {}", path.display());
    say!("{}", Enr::for_key(&key).text());
    say!("{}", who(&key));
    say!(
        "\nBack up {}: whoever has it is this node, and nobody can make it again.",
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn show(target: &DataDir) -> Result<ExitCode, Box<dyn Error>> {
    let key = keyfile::load(target.data_dir.join(keyfile::FILE_NAME))?;
    say!("{}", Enr::for_key(&key).text());
    // Beside the ENR, which scripts take from standard output.
    note!("{}", who(&key));
    Ok(ExitCode::SUCCESS)
}

/// How others see the node.
fn who(key: &SecretKey) -> String {
    let peer = identity::peer_id(&key.public_key());
    format!("peer {peer}, called {}", identity::name(&peer))
}
