import trio

from ambientd.host.passwords import Argon2Passwords


def test_a_password_fits_its_own_hash_alone() -> None:
    async def main() -> None:
        passwords = Argon2Passwords()
        stored = await passwords.hash("correct horse")
        assert stored.startswith("$argon2id$")
        assert "correct" not in stored
        assert await passwords.matches("correct horse", stored)
        assert not await passwords.matches("wrong horse", stored)
        assert not await passwords.matches("correct horse", None)

    trio.run(main)
