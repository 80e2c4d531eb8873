# Build with cargo, install where mount(8), man(1) and the shells look. DESTDIR and PREFIX are honoured.
#
#   make && sudo make install
#   make install DESTDIR=/tmp/package PREFIX=/usr

PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
# mount(8) looks for its helpers here and nowhere else.
SBINDIR ?= /sbin
MANDIR  ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR  ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d

CARGO   ?= cargo
INSTALL ?= install
# An installed binary to use in place of building one.
BINARY  ?= target/release/shiftbind

# By the second name `mount -t fuse.shiftbind` finds the program without a detour by mount.fuse3, a shell and PATH.
HELPERS = mount.shiftbind mount.fuse.shiftbind

INSTALLED = $(BINDIR)/shiftbind $(HELPERS:%=$(SBINDIR)/%) $(MANDIR)/man8/shiftbind.8 \
	$(HELPERS:%=$(MANDIR)/man8/%.8) \
	$(BASHDIR)/shiftbind $(ZSHDIR)/_shiftbind $(FISHDIR)/shiftbind.fish

# What stands in for bindfs, for those who ask for it: fstab, units and scripts that name bindfs then mean this program.
AS_BINDFS = $(BINDIR)/bindfs $(SBINDIR)/mount.bindfs

.PHONY: all man install uninstall install-bindfs uninstall-bindfs

all: target/release/shiftbind

# cargo knows best whether it is up to date. Where it is missing (sudo make install), what was built is taken.
.PHONY: target/release/shiftbind
target/release/shiftbind:
	if test ! -e $@ || command -v $(CARGO) > /dev/null; then $(CARGO) build --release --locked; fi

# The committed page, from man/shiftbind.8.in and the table of options.
man:
	$(CARGO) run --quiet -- --generate=man > man/shiftbind.8.new
	mv man/shiftbind.8.new man/shiftbind.8

install: $(BINARY)
	$(INSTALL) -D -m 755 $(BINARY) $(DESTDIR)$(BINDIR)/shiftbind
	$(INSTALL) -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	for name in $(HELPERS); do ln -sfn $(BINDIR)/shiftbind $(DESTDIR)$(SBINDIR)/$$name || exit 1; done
	$(INSTALL) -D -m 644 man/shiftbind.8 $(DESTDIR)$(MANDIR)/man8/shiftbind.8
	for name in $(HELPERS); do ln -sfn shiftbind.8 $(DESTDIR)$(MANDIR)/man8/$$name.8 || exit 1; done
	$(BINARY) --generate=bash > $(DESTDIR)$(BASHDIR)/shiftbind
	$(BINARY) --generate=zsh > $(DESTDIR)$(ZSHDIR)/_shiftbind
	$(BINARY) --generate=fish > $(DESTDIR)$(FISHDIR)/shiftbind.fish
	chmod 644 $(DESTDIR)$(BASHDIR)/shiftbind $(DESTDIR)$(ZSHDIR)/_shiftbind $(DESTDIR)$(FISHDIR)/shiftbind.fish

uninstall:
	rm -f $(INSTALLED:%=$(DESTDIR)%)

# Another program of that name is left alone.
install-bindfs:
	for link in $(AS_BINDFS:%=$(DESTDIR)%); do \
		if test -e $$link && test ! -L $$link; then echo "$$link is another program; remove it first" >&2; exit 1; fi; \
	done
	$(INSTALL) -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(SBINDIR)
	for link in $(AS_BINDFS:%=$(DESTDIR)%); do ln -sfn $(BINDIR)/shiftbind $$link || exit 1; done

uninstall-bindfs:
	for link in $(AS_BINDFS:%=$(DESTDIR)%); do if test -L $$link; then rm $$link || exit 1; fi; done
