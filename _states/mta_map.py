"""
Keep lookup tables of Postfix, and their compiled forms.

.. code-block:: yaml

    virtual aliases:
      mta_map.managed:
        - name: /etc/postfix/virtual
        - entries:
            info@example.com: [alice, bob@example.org]
            "@example.net": carol

    header checks:
      mta_map.managed:
        - name: /etc/postfix/header_checks
        - type: pcre
        - entries:
          - /^Subject:.*lottery/: REJECT
          - /^X-Spam: yes/ HOLD

    smarthost login:
      mta_map.managed:
        - name: /etc/postfix/sasl_passwd
        - logins:
            "[smtp.example.net]:587": mail:smarthost
"""

from salt.loader.dunder import __opts__


def managed(
    name,
    type=None,
    entries=None,
    entries_pillar=None,
    source=None,
    secret=False,
    mode=None,
    package=None,
    logins=None,
    transaction=None,
):
    """
    Make a table hold exactly some entries, and its compiled form hold what the source gives.

    A compiled form that does is left alone, whoever made it. That of a table which ``tls_server_sni_maps`` names
    (in main.cf, master.cf or pillar) holds the keys and certificates whose files are its entries' values, as
    ``postmap -F`` makes it; nobody but its owner can read that.

    name
        Absolute path of the source.

    type
        A type of ``postconf -m`` that has a file: hash, btree, lmdb, cdb; texthash, pcre, regexp, cidr; ldap,
        mysql, pgsql, sqlite, memcache, mongodb. Default: ``default_database_type``.

    entries
        Mapping of key to value (a list is joined by commas), or a list of lines or of mappings of one key, whose
        order counts for pcre, regexp and cidr. Of ldap and so on: the file's settings. Default: none, an empty
        table.

    entries_pillar
        Pillar path of the entries, in place of ``entries``: Salt logs a state's arguments. There a value may be
        ``{secret: TEXT}``; it, like ``password`` and ``bind_pw`` of a file of settings, is never shown, and may be
        an ``sdb://`` URI. A setting that is a URI with a password in it is a secret too.

    source
        URL of a file on the file server, in place of entries. Default: none.

    secret
        Whether all values are secret. Default: false.

    mode
        Octal text, of the source and its compiled form. Default: that of the file which is there, ``"0644"`` for a
        new one; with secrets ``"0600"``, ``"0640"`` for a file of settings. The group is ``postfix`` where it may
        read and others may not. One that lets others read, write or execute a table with secrets is refused.

    package
        Package that brings the type, so that test mode knows that it will be there. Default: none.

    logins
        Mapping of lookup key (``[host]:port``, a sender's address or ``@domain``) to the pillar path of a section
        with ``username`` and ``password``, in place of entries: a table for ``smtp_sasl_password_maps``, all of it
        secret. Default: none.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: this state does it.
    """
    args = {
        "name": name,
        "type": type,
        "entries": entries,
        "entries_pillar": entries_pillar,
        "source": source,
        "secret": secret,
        "mode": mode,
        "package": package,
        "logins": logins,
    }
    return __salt__["mta_apply.participate"](
        "mta_map.managed", name, args, transaction, __opts__["test"], f"The table {name}"
    )


def only(name, keep=None, absent=None, transaction=None):
    """
    Remove tables that :func:`managed` made and that are no longer wanted, with their compiled forms.

    name
        Any name; it is not used.

    keep
        Mapping of path to type (null: the default) of the tables that stay. What main.cf still names stays, too,
        and what somebody has changed since.

    absent
        List of paths of tables that are not to be there, whoever made them. Refused while main.cf or master.cf
        name one. Default: none.

    transaction
        Name of the transaction whose closing state verifies. Default: this state does it.
    """
    return __salt__["mta_apply.participate"](
        "mta_map.only",
        name,
        {"keep": keep, "absent": absent},
        transaction,
        __opts__["test"],
        "The set of lookup tables",
    )
