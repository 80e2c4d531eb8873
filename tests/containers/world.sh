# The machine that the flows see: sourced in namespaces of their own (mounts, processes, network, cgroups), as root.
#
# $W is the test's directory, $PROGRAM the shiftbind binary, $PROJECT the checkout. Every file that a flow writes lies below $W, bound over the
# place that the programs use. The end of the process namespace ends all containers and daemons.
set -e
PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root LC_ALL=C
unset RUST_LOG XDG_RUNTIME_DIR
# Without it nspawn writes to the machine's own hierarchy of cgroups version 1.
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1

umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for place in /srv /mnt /home /root /var/lib /var/cache /etc; do
    mkdir -p "$W$place"
    case $place in
        /srv | /mnt | /home | /root) mount --bind "$W$place" $place ;;
        *)
            mkdir -p "$W/work$place"
            mount -t overlay -o "lowerdir=$place,upperdir=$W$place,workdir=$W/work$place" over $place
            ;;
    esac
done
mount -t tmpfs -o mode=755 run /run
# podman refuses an overlay below its own.
mkdir -p /var/lib/containers "$W/containers"
mount --bind "$W/containers" /var/lib/containers
mkdir -p /run/user/1000 /home/alice /srv/data /mnt/data "$W/dev" "$W/sbin" "$W/bin"
chown 1000:1000 /run/user/1000 /home/alice

# shiftbind as `make install` installs it, and a FUSE device that every user may open.
for name in mount.shiftbind mount.fuse.shiftbind; do ln -s /usr/local/bin/shiftbind "$W/sbin/$name"; done
touch "$W/bin/shiftbind"
# No systemd runs here, with which nspawn would register the container.
cat > "$W/bin/systemd-nspawn" << 'END'
#!/bin/sh
exec /usr/bin/systemd-nspawn --register=no --keep-unit "$@"
END
chmod 755 "$W/sbin" "$W/dev" "$W/bin" "$W/bin/systemd-nspawn"
mount -t overlay -o "lowerdir=$W/sbin:/usr/sbin" sbin /usr/sbin
mount -t overlay -o "lowerdir=$W/bin:/usr/local/bin" bin /usr/local/bin
mount --bind "$PROGRAM" /usr/local/bin/shiftbind
mknod -m 666 "$W/dev/fuse" c 10 229
mount --bind "$W/dev/fuse" /dev/fuse
# crun and runc give their standard files to the container's root (fchown(2)): /dev/null must not be the machine's own.
mknod -m 666 "$W/dev/null" c 1 3
mount --bind "$W/dev/null" /dev/null
exec < /dev/null

# The accounts that the document names, and the ids that they may give to containers.
for file in passwd group; do grep -v -e ^alice: -e ^containers: -e '^[^:]*:[^:]*:1000:' /etc/$file > "$W/$file"; done
echo alice:x:1000:1000::/home/alice:/bin/sh >> "$W/passwd"
echo alice:x:1000: >> "$W/group"
echo containers:x:999:999::/:/usr/sbin/nologin >> "$W/passwd"
for file in passwd group; do cat "$W/$file" > /etc/$file; done
for file in subuid subgid; do
    printf 'root:200000:65536\nalice:300000:65536\ncontainers:500000:1000000\n' > /etc/$file
done

# The source: `f` of 1000:1000, `root` of 0:0, and `other`, of an id that the maps do not hold.
touch /srv/data/f /srv/data/root /srv/data/other
chown 1000:1000 /srv/data/f
chown 70000:70000 /srv/data/other
chmod 777 /srv/data

alice() {
    setpriv --reuid=1000 --regid=1000 --init-groups env -i HOME=/home/alice XDG_RUNTIME_DIR=/run/user/1000 \
        PATH="$PATH" LC_ALL=C "$@"
}
owner() { stat -c %u:%g "$1"; }
is() { test "$1" = "$2" || { echo "'$1' is not '$2'" >&2; exit 1; }; }
# What `ls -ln` printed of a file: `shows FILE UID GID [OUTPUT]`.
shows() {
    awk -v f="$1" -v u="$2" -v g="$3" '{ sub(/\r$/, "") } $NF == f && $3 == u && $4 == g { found = 1 } END { exit !found }' "${4:-$OUT}" ||
        { echo "$1 is not shown as $2:$3:" >&2; cat "${4:-$OUT}" >&2; exit 1; }
}
# A command that has to fail; after `!` bash goes on whatever the command does.
fails() {
    if "$@"; then
        echo "this should fail: $*" >&2
        exit 1
    fi
}
# The kernel lacks what the flow is about.
cannot_run() {
    echo "$1" >&2
    exit 77
}
until_true() { # COMMAND: within ten seconds
    tries=0
    until eval "$1"; do
        tries=$((tries + 1))
        test $tries -lt 500 || { echo "not in time: $1" >&2; exit 1; }
        sleep 0.02
    done
}

# A tree that a container can start from, made of busybox.
tree() { # DIRECTORY
    mkdir -p "$1"
    (
        cd "$1"
        mkdir bin data dev etc proc root run srv sys tmp usr var
        cp /bin/busybox bin/
        for name in cat chmod chown grep head id ln ls mkdir mount rm setpriv sh sleep stat su touch true umount; do
            ln -s busybox bin/$name
        done
        printf 'root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' > etc/passwd
    )
}

# podman without a network, without cgroups of its own and without systemd, and an image named busybox.
podman_is_set_up() {
    mkdir -p /etc/containers
    cat > /etc/containers/containers.conf << 'END'
[containers]
cgroups = "disabled"
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
log_driver = "k8s-file"
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
END
    tree "$W/image"
    tar -C "$W/image" -cf "$W/image.tar" .
}
image_for_podman() { "$@" podman import -q - docker.io/library/busybox:latest < "$W/image.tar" > "$W/imported"; }

# A bundle for crun and runc in the working directory, whose container runs $1 and has ids from 200000 on.
bundle() {
    tree rootfs
    chown -R 200000:200000 rootfs
    runc spec
    jq --arg run "$1" '.process.terminal = false | .process.args = ["sh", "-c", $run] | .process.rlimits = []
        | .root.readonly = false | .linux.resources = {} | .linux.namespaces += [{"type": "user"}]
        | .linux.uidMappings = [{"containerID": 0, "hostID": 200000, "size": 65536}]
        | .linux.gidMappings = .linux.uidMappings | .mounts |= map(select(.type != "cgroup"))' config.json > made.json
    mv made.json config.json
}

# A container of LXC, without a network: `lxc_container NAME ROOTFS`, and further lines of its configuration from standard
# input. LXC is content without cgroups, and leaves some behind where it finds them.
lxc_container() {
    umount /sys/fs/cgroup
    mount -t tmpfs none /sys/fs/cgroup
    mkdir -p "/var/lib/lxc/$1"
    { printf 'lxc.uts.name = %s\nlxc.rootfs.path = dir:%s\nlxc.net.0.type = empty\n' "$1" "$2"; cat; } > "/var/lib/lxc/$1/config"
}

# A daemon of docker whose containers have alice's subordinate ids, and an image named busybox.
docker_is_set_up() {
    tree "$W/image"
    mkdir -p "$W/docker"
    dockerd --data-root "$W/docker" --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --bridge=none \
        "$@" > "$W/dockerd.log" 2>&1 &
    until_true 'docker version > /dev/null 2>&1 || ! kill -0 $!'
    docker version > /dev/null 2>&1 || { tail -n 3 "$W/dockerd.log" >&2; exit 1; }
    tar -C "$W/image" -c . | docker import - busybox > "$W/imported"
}
