//! What is written reads back, and no text makes a reader panic.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use pluto_crypto::bls::SecretKey;
use pluto_eth::{
    address::Address,
    deposit::{
        CredentialsKind, Gwei, Message, WithdrawalCredentials,
        file::{self, Entry},
    },
    network::CustomFlags,
    registration::{self, Registration},
};
use proptest::{collection::vec, prelude::*};

proptest! {
    // Each case signs and verifies up to four deposits.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn deposit_files_read_back(
        name in ".+",
        version: [u8; 4],
        amount: u64,
        addresses in vec(any::<[u8; 20]>(), 1..4),
        compounding: bool,
    ) {
        let network = CustomFlags {
            name,
            fork_version: hex::encode(version),
            chain_id: 1,
            genesis_time: 1,
            ..CustomFlags::default()
        };
        let network = network.network().unwrap().unwrap();
        let kind = CredentialsKind::new(compounding);
        let mut entries: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                let secret = SecretKey::generate();
                let message = Message {
                    public_key: secret.public_key().to_bytes(),
                    withdrawal_credentials: WithdrawalCredentials::new(kind, Address(address)),
                    amount: Gwei(amount),
                };
                Entry::new(message.sign(&secret, network.genesis_version()), &network)
            })
            .collect();

        let text = file::to_json(&entries).unwrap();
        let read = file::parse(&text).unwrap();

        entries.sort_by_key(|entry| entry.deposit.message.public_key);
        prop_assert_eq!(&read, &entries);
        prop_assert_eq!(file::to_json(&read).unwrap(), text);
    }
}

proptest! {
    #[test]
    fn overrides_read_back(overrides in vec(any_registration(), 0..4)) {
        let text = registration::overrides_to_json(&overrides);
        let read = registration::parse_overrides(&text).unwrap();

        prop_assert_eq!(&read, &overrides);
        prop_assert_eq!(registration::overrides_to_json(&read), text);
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in ".*") {
        let _ = file::parse(text.as_bytes());
        let _ = registration::parse_overrides(text.as_bytes());
    }

    #[test]
    fn addresses_read_back(bytes: [u8; 20]) {
        let address = Address(bytes);

        let text = address.to_string();

        prop_assert_eq!(Address::from_checksummed(&text), Ok(address));
        prop_assert_eq!(text.to_lowercase().parse(), Ok(address));
    }
}

fn any_registration() -> impl Strategy<Value = Registration> {
    let message = any::<([u8; 20], u64, u64, [u8; 48])>();
    (message, any::<[u8; 96]>()).prop_map(|(message, signature)| {
        let (fee_recipient, gas_limit, timestamp, public_key) = message;
        Registration {
            message: registration::Message {
                fee_recipient: Address(fee_recipient),
                gas_limit,
                timestamp,
                public_key,
            },
            signature,
        }
    })
}
