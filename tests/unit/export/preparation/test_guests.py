"""What preparation makes of the files of real distributions: ifupdown, networkd, netplan, NetworkManager; GRUB; SSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.export.files.inside import Volume
from farshore.export.preparation.addresses import give_addresses
from farshore.export.preparation.boot_loader import prepare_boot
from farshore.export.preparation.card_names import name_cards
from farshore.export.preparation.edits import Edits
from farshore.export.preparation.file_systems import by_uuid
from farshore.export.preparation.inside import _names, work
from farshore.export.preparation.prepare import _lines, _plain
from farshore.export.preparation.secure_shell import allow_ssh
from farshore.export.preparation.start_up import lacking
from farshore.export.preparation.wish import CardWish, Wish

OLD, NEW = "00:50:56:aa:bb:01", "52:54:00:11:22:33"
STATIC = CardWish("ens192", NEW, OLD, ("192.0.2.10/24", "2001:db8::10/64"), ("192.0.2.1",), ("192.0.2.53",))
BY_DHCP = CardWish("ens192", OLD, OLD, dhcp=True)
NAMED = {"/dev/sda1": "UUID=root", "/dev/sda2": "UUID=swap"}


def tree(root: Path, files: dict[str, str]) -> Edits:
    for path, text in files.items():
        at = root / path
        at.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            at.symlink_to(text.removeprefix("-> "))
        else:
            at.write_text(text)
    return Edits(root)


def wants(unit: str, target: str = "multi-user.target") -> dict[str, str]:
    return {f"etc/systemd/system/{target}.wants/{unit}": f"-> /lib/systemd/system/{unit}"}


INTERFACES = """\
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

allow-hotplug ens192
iface ens192 inet static
    address 198.51.100.7/24
    gateway 198.51.100.1
    dns-nameservers 198.51.100.53
iface ens192 inet6 auto

auto ens224
iface ens224 inet dhcp
"""


def test_ifupdown(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/network/interfaces": INTERFACES})
    give_addresses(edits, (STATIC,))
    edits.commit()
    assert (
        (tmp_path / "etc/network/interfaces").read_text()
        == """\
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

allow-hotplug ens192
iface ens192 inet static
    address 192.0.2.10/24
    gateway 192.0.2.1
    dns-nameservers 192.0.2.53
iface ens192 inet6 static
    address 2001:db8::10/64
#farshore# iface ens192 inet static
#farshore#     address 198.51.100.7/24
#farshore#     gateway 198.51.100.1
#farshore#     dns-nameservers 198.51.100.53
#farshore# iface ens192 inet6 auto

auto ens224
iface ens224 inet dhcp
"""
    )


def test_ifupdown_by_dhcp_keeps_its_name_servers(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/network/interfaces.d/lan": INTERFACES})
    give_addresses(edits, (BY_DHCP,))
    text = edits.read("/etc/network/interfaces.d/lan")
    assert "\niface ens192 inet dhcp\n    dns-nameservers 198.51.100.53\n#farshore#" in text


NETPLAN = """\
network:
  version: 2
  ethernets:
    ens192:
      match:
        macaddress: "00:50:56:AA:BB:01"
      addresses: [192.0.2.7/24]
      routes:
        - to: default
          via: 192.0.2.254
"""


def test_netplan_s_card_has_a_file_that_comes_first(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/netplan/50-cloud-init.yaml": NETPLAN, "etc/cloud/cloud.cfg": "x\n"})
    card = CardWish("ens192", NEW, OLD, ("192.0.2.10/24",))
    name_cards(edits, (card,))
    give_addresses(edits, (card,))
    assert edits.read("/etc/systemd/network/05-farshore-ens192.network").splitlines() == [
        "[Match]", f"MACAddress={NEW}", "", "[Network]", "DHCP=no", "Address=192.0.2.10/24", "Gateway=192.0.2.254",
    ]  # fmt: skip
    assert edits.read("/etc/systemd/network/05-farshore-ens192.link") == (
        f"[Match]\nMACAddress={NEW}\n\n[Link]\nName=ens192\n"
    )
    assert f'macaddress: "{NEW}"' in edits.read("/etc/netplan/50-cloud-init.yaml")
    assert edits.has("/etc/cloud/cloud-init.disabled")
    assert not edits.warnings


def test_network_manager_has_a_connection_of_the_highest_priority(tmp_path: Path) -> None:
    edits = tree(tmp_path, wants("NetworkManager.service"))
    give_addresses(edits, (STATIC,))
    edits.commit()
    made = tmp_path / "etc/NetworkManager/system-connections/farshore-ens192.nmconnection"
    text = made.read_text()
    assert made.stat().st_mode & 0o777 == 0o600
    assert "autoconnect-priority=999\n\n[ethernet]\nmac-address=52:54:00:11:22:33\n" in text
    assert "[ipv4]\nmethod=manual\naddress1=192.0.2.10/24,192.0.2.1\ndns=192.0.2.53;\n" in text
    assert "[ipv6]\nmethod=manual\naddress1=2001:db8::10/64\n" in text
    assert not edits.warnings


def test_a_network_that_nothing_known_configures_is_named(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/hostname": "x\n"})
    give_addresses(edits, (STATIC,))
    assert edits.commit() == []
    assert "is not known" in edits.warnings[0]


def test_a_card_that_stays_as_it_is_has_its_name_alone(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/network/interfaces": INTERFACES})
    card = CardWish("ens192", OLD, OLD)
    name_cards(edits, (card,))
    give_addresses(edits, (card,))
    assert [line.partition(":")[0] for line in edits.commit()] == ["/etc/systemd/network/05-farshore-ens192.link"]


AT_AZURE = CardWish("ens192", OLD, OLD, dhcp=True, driver="hv_netvsc")
"""A card whose MAC address the provider chooses."""


def test_a_card_of_a_provider_is_known_by_its_driver(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/netplan/01.yaml": NETPLAN})
    name_cards(edits, (AT_AZURE,))
    give_addresses(edits, (AT_AZURE,))
    link = edits.read("/etc/systemd/network/05-farshore-ens192.link")
    assert link == "[Match]\nDriver=hv_netvsc\n\n[Link]\nName=ens192\n"
    network = edits.read("/etc/systemd/network/05-farshore-ens192.network")
    assert network == "[Match]\nDriver=hv_netvsc\nName=ens192\n\n[Network]\nDHCP=yes\n"
    assert not edits.warnings

    manager = tree(tmp_path / "other", wants("NetworkManager.service"))
    give_addresses(manager, (AT_AZURE,))
    connection = manager.read("/etc/NetworkManager/system-connections/farshore-ens192.nmconnection")
    assert "[match]\ndriver=hv_netvsc;\ninterface-name=ens192;\n" in connection
    assert "mac-address" not in connection

    classic = tree(tmp_path / "third", {"etc/network/interfaces": INTERFACES})
    give_addresses(classic, (AT_AZURE,))
    assert "\niface ens192 inet dhcp\n" in classic.read("/etc/network/interfaces")


def test_several_cards_of_a_provider_are_known_by_their_order(tmp_path: Path) -> None:
    edits = tree(tmp_path, wants("systemd-networkd.service"))
    second = CardWish("ens224", "", dhcp=True, driver="hv_netvsc")
    name_cards(edits, (AT_AZURE, second))
    assert "OriginalName=eth0\n" in edits.read("/etc/systemd/network/05-farshore-ens192.link")
    assert "OriginalName=eth1\n" in edits.read("/etc/systemd/network/05-farshore-ens224.link")
    assert "by the order" in edits.warnings[0]


@pytest.mark.parametrize("card", [CardWish("ens192", ""), CardWish("x\n[Match]", OLD), CardWish("../a", OLD)])
def test_a_card_of_which_files_cannot_be_made_is_named(tmp_path: Path, card: CardWish) -> None:
    edits = tree(tmp_path, {"etc/network/interfaces": INTERFACES})
    name_cards(edits, (card,))
    give_addresses(edits, (card,))
    assert edits.commit() == []
    assert edits.warnings


FSTAB = """\
# <file system> <mount point>
/dev/sda1 / ext4 errors=remount-ro 0 1
/dev/sda2	none	swap	sw 0 0
/dev/sdb1 /data xfs defaults 0 0
/dev/mapper/vg-home /home ext4 defaults 0 2
/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1 /srv ext4 defaults 0 2
UUID=abc /boot ext2 defaults 0 2
"""


def test_the_table_of_file_systems(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/fstab": FSTAB})
    by_uuid(edits, lambda device: NAMED.get(device, ""))
    expected = FSTAB.replace("/dev/sda1", "UUID=root").replace("/dev/sda2", "UUID=swap")
    assert edits.read("/etc/fstab") == expected
    assert [word for line in edits.warnings for word in line.split() if word.startswith("/dev/")] == [
        "/dev/sdb1", "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1",
    ]  # fmt: skip


GRUB = """\
menuentry 'Debian' {
	search --no-floppy --fs-uuid --set=root root
	linux	/boot/vmlinuz-6.1 root=/dev/sda1 ro quiet resume=/dev/sda2
	initrd	/boot/initrd.img-6.1
}
"""


def test_the_boot_loader(tmp_path: Path) -> None:
    files = {
        "boot/grub/grub.cfg": GRUB,
        "boot/loader/entries/a.conf": "title A\nlinux /vmlinuz\noptions root=/dev/mapper/rl-root ro\n",
        "etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n',
    }
    edits = tree(tmp_path, files)
    prepare_boot(edits, lambda device: NAMED.get(device, ""))
    console = " console=tty0 console=ttyS0,115200\n"
    assert f"6.1 root=UUID=root ro quiet resume=UUID=swap{console}" in edits.read("/boot/grub/grub.cfg")
    assert edits.read("/boot/loader/entries/a.conf").endswith(
        f"linux /vmlinuz\noptions root=/dev/mapper/rl-root ro{console}"
    )
    assert edits.read("/etc/default/grub").endswith('\nGRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"\n')
    once = edits.read("/boot/grub/grub.cfg")
    prepare_boot(edits, lambda device: NAMED.get(device, ""))
    assert edits.read("/boot/grub/grub.cfg") == once


UFW = "*filter\n:ufw-user-input - [0:0]\n### RULES ###\n\n### END RULES ###\nCOMMIT\n"
NFT = (
    "table inet a {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tiif lo accept\n\t}\n}\n"
)
IPTABLES = "*nat\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n"
SSH = {"lib/systemd/system/ssh.service": "[Unit]\n", "etc/ssh/sshd_config": "#Port 22\nPort 2022\n"}


def test_ssh_is_enabled_and_let_in(tmp_path: Path) -> None:
    files = {
        **SSH,
        "etc/systemd/system/ssh.service": "-> /dev/null",
        "etc/ssh/sshd_not_to_be_run": "",
        "etc/ufw/ufw.conf": "ENABLED=yes\n",
        "etc/ufw/user.rules": UFW,
        "etc/nftables.conf": NFT,
        "etc/iptables/rules.v4": IPTABLES,
        **wants("nftables.service", "sysinit.target"),
        **wants("firewalld.service"),
        "etc/firewalld/firewalld.conf": "DefaultZone=drop\n",
        "usr/lib/firewalld/zones/drop.xml": "<zone>\n</zone>\n",
    }
    edits = tree(tmp_path, files)
    allow_ssh(edits)
    edits.commit()
    allow_ssh(edits)
    assert edits.commit() == []
    unit = tmp_path / "etc/systemd/system/multi-user.target.wants/ssh.service"
    assert str(unit.readlink()) == "/lib/systemd/system/ssh.service"
    assert not (tmp_path / "etc/systemd/system/ssh.service").is_symlink()
    assert not (tmp_path / "etc/ssh/sshd_not_to_be_run").exists()
    rule = "### tuple ### allow tcp 2022 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 2022 -j ACCEPT\n"
    assert f"### RULES ###\n\n{rule}" in (tmp_path / "etc/ufw/user.rules").read_text()
    assert "policy drop;\n\t\ttcp dport 2022 accept\n\t\tiif lo" in (tmp_path / "etc/nftables.conf").read_text()
    expected = IPTABLES.removesuffix("COMMIT\n") + "-I INPUT -p tcp --dport 2022 -j ACCEPT\nCOMMIT\n"
    assert (tmp_path / "etc/iptables/rules.v4").read_text() == expected
    zone = (tmp_path / "etc/firewalld/zones/drop.xml").read_text()
    assert zone == '<zone>\n  <port port="2022" protocol="tcp"/>\n</zone>\n'


def test_firewalls_that_are_off_stay_as_they_are(tmp_path: Path) -> None:
    files = {**SSH, "etc/ufw/ufw.conf": "ENABLED=no\n", "etc/ufw/user.rules": UFW, "etc/nftables.conf": NFT}
    edits = tree(tmp_path, {**files, **wants("ssh.service")})
    allow_ssh(edits)
    assert edits.commit() == []


def test_a_guest_without_ssh_is_named(tmp_path: Path) -> None:
    edits = tree(tmp_path, {"etc/hostname": "x\n"})
    allow_ssh(edits)
    assert edits.commit() == []
    assert edits.warnings


def test_what_a_start_up_image_lacks(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz\nkernel/drivers/block/virtio_blk.ko.xz:\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/drivers/scsi/sd_mod.ko\n")
    listing = "usr/lib/modules/6/kernel/drivers/block/virtio_blk.ko\n"
    assert lacking(tmp_path, listing, ("ahci", "sd_mod", "virtio_blk", "vmw_pvscsi")) == (["ahci"], ["vmw_pvscsi"])


def test_all_of_it_and_back(tmp_path: Path) -> None:
    files = {
        "etc/fstab": FSTAB,
        "boot/grub/grub.cfg": GRUB,
        "etc/network/interfaces": INTERFACES,
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        **SSH,
    }
    tree(tmp_path, files)
    done = work(tmp_path, Wish(drivers=("ahci",), cards=(STATIC,), ssh=True), NAMED)
    assert done.system == "Debian GNU/Linux 12 (bookworm)"
    assert len(done.changes) == 5
    assert work(tmp_path, Wish(drivers=("ahci",), cards=(STATIC,), ssh=True), NAMED).changes == ()
    assert len(work(tmp_path, Wish(undo=True), {}).changes) == 5
    for path, text in files.items():
        assert (tmp_path / path).read_text() == text


def test_a_guest_s_words_do_not_act_on_a_terminal() -> None:
    assert _plain("Debian\x1b[2J\n" + "x" * 1000) == "Debian?[2J?" + "x" * 489
    assert len(_lines(["x"] * 1000)) == 200


def test_devices_are_named_by_what_is_on_them() -> None:
    volumes = [
        Volume("0p1", "ext4", "", "a", 1, "/dev/vda1", ""),
        Volume("0p2", "swap", "", "b", 1, "/dev/vda2", ""),
        Volume("0p3", "LVM2_member", "", "c", 1, "/dev/vda3", ""),
        Volume("1", "xfs", "", "d", 1, "/dev/vdb", ""),
        Volume("10p1", "ext4", "", "e", 1, "/dev/vdc1", ""),
        Volume("vg/root", "ext4", "", "f", 1, "/dev/dm-0", ""),
    ]
    found = _names(volumes, Wish(names={"sda": 0, "nvme0n1": 1, "nvme1n1": 10}))
    assert found == {
        "/dev/sda1": "UUID=a", "/dev/sda2": "UUID=b", "/dev/nvme0n1": "UUID=d", "/dev/nvme1n1p1": "UUID=e",
    }  # fmt: skip
