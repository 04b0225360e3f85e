/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command lines for test-argv.c: monitors, -incoming, and real ones as a whole. */
#include "tests/unit/argv-cases.h"

const ArgvCase argv_monitor_cases[] = {
    {"qmp-unix", Q "-qmp unix:/a,,b,server=on,wait=off", Q "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:listen-unix:/a,b "},
    {"qmp-old-flags", Q "-qmp unix:/a,server,nowait", Q "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:listen-unix:/a "},
    {"qmp-wait", Q "-qmp unix:/a,server", Q "-qmp " DEV(0, "on") PC128 PRIV,
     S128 "mon=compat_monitor0:listen-unix:/a:wait "},
    {"qmp-client", Q "-qmp-pretty unix:/a,reconnect=3", Q "-qmp-pretty " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:connect-unix:/a:re3 "},
    {"qmp-tcp", Q "-qmp tcp:localhost:4444,server=on,wait=off,ipv4=on,to=4450,nodelay=on",
     Q "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:listen-tcp:[localhost]:4444:to4450:v4 "},
    {"qmp-tcp-any", Q "--qmp tcp::4444,server,nowait,ipv4=off,nodelay",
     Q "--qmp " DEV(0, "off") PC128 PRIV, S128 "mon=compat_monitor0:listen-tcp:[]:4444:v6 "},
    {"qmp-tcp-client", Q "-qmp tcp:h:1,reconnect-ms=1500", Q "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:connect-tcp:[h]:1:re2 "},
    {"qmp-stdio", Q "-display none -qmp stdio",
     Q "-display none "
       "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:stdio "},
    {"labels", Q "-qmp unix:/a,server=on -monitor none -monitor stdio -qmp unix:/b",
     Q "-qmp " DEV(0, "on") " -monitor none -monitor "
                            "stdio "
                            "-qmp " DEV(1, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:listen-unix:/a:wait mon=compat_monitor2:connect-unix:/b "},
    {"mon-fd",
     Q "-chardev socket,id=charmonitor,fd=31,server=on,wait=off -mon chardev="
       "charmonitor,id=monitor,mode=control",
     Q MON("charmonitor", 0, "off") " -mon chardev="
                                    "charmonitor,id=monitor,mode=control" PC128 DOOR(9) PRIV,
     S128 "mon=charmonitor:listen-fd:31 "},
    {"mon-connected-fd", Q "-mon c,mode=control,pretty=on -chardev socket,id=c,fd=9",
     Q "-mon c,mode=control,pretty=on " MON("c", 0, "off") PC128 DOOR(9) PRIV,
     S128 "mon=c:connected-fd:9 "},
    {"mon-tcp", Q "-chardev socket,id=c,host=::1,port=99,server=on,ipv6=on -mon c,mode=control",
     Q MON("c", 0, "on") " -mon c,mode=control" PC128 PRIV,
     S128 "mon=c:listen-tcp:[::1]:99:v6:wait "},
    {"mon-abstract", Q "-chardev socket,id=c,path=x,abstract=on,tight=on -mon c,mode=control",
     Q MON("c", 0, "off") " -mon c,mode=control" PC128 PRIV, S128 "mon=c:connect-unix:x:abstract "},
    {"mon-stdio", Q "-chardev stdio,id=c,signal=off -mon c,mode=control",
     Q MON("c", 0, "off") " -mon c,mode=control" PC128 PRIV, S128 "mon=c:stdio "},
    {"qmp-chardev", Q "-chardev socket,id=c,path=/a,server=on,wait=no -qmp chardev:c",
     Q MON("c", 0, "off") " -qmp chardev:c" PC128 PRIV, S128 "mon=c:listen-unix:/a "},
    {"logfile", Q "-chardev socket,id=c,path=/a,logfile=/l,,og,logappend=on -mon c,mode=control",
     Q MON("c", 0, "off") ",logfile=/l,,og,logappend=on -mon c,mode=control" PC128 PRIV,
     S128 "mon=c:connect-unix:/a "},
    {"qmp-and-name-alike", Q "-name c -chardev socket,id=c,path=/a -mon c,mode=control",
     Q "-name c " MON("c", 0, "off") " -mon c,mode=control" PC128 PRIV,
     S128 "mon=c:connect-unix:/a name=c "},
    {"qmp-stdio-nographic", Q "-nographic -serial none -qmp stdio",
     Q "-nographic -serial none "
       "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:stdio "},
    {"qmp-stdio-isa-serial",
     Q "-nographic -device isa-serial,chardev=s -chardev null,id=s -qmp stdio",
     Q "-nographic -device isa-serial,chardev=s -chardev null,id=s "
       "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:stdio "},
    /* QEMU 11.1 */
    {"object",
     Q "-chardev socket,id=c,path=/a,server=on,wait=off -object monitor-qmp,id=m,chardev=c",
     Q MON("c", 0, "off") " -object monitor-qmp,id=m,chardev=c" PC128 PRIV,
     S128 "mon=c:listen-unix:/a "},
    {"object-json",
     Q "-chardev socket,id=charmonitor,fd=31,server=on,wait=off -object "
       "'{\"qom-type\":\"monitor-qmp\",\"id\":\"monitor\",\"chardev\":\"charmonitor\"}'",
     Q MON("charmonitor", 0, "off") " -object "
                                    "'{\"qom-type\":\"monitor-qmp\",\"id\":\"monitor\","
                                    "\"chardev\":\"charmonitor\"}'" PC128 DOOR(9) PRIV,
     S128 "mon=charmonitor:listen-fd:31 "},
    {"object-before", Q "-object monitor-qmp,chardev=c,pretty=on,id=m -chardev stdio,id=c",
     Q "-object monitor-qmp,chardev=c,pretty=on,id=m " MON("c", 0, "off") PC128 PRIV,
     S128 "mon=c:stdio "},
    {"object-close-action-none",
     Q "-chardev socket,id=c,path=/a -object monitor-qmp,id=m,close-action=none,chardev=c",
     Q MON("c", 0, "off") " -object monitor-qmp,id=m,close-action=none,chardev=c" PC128 PRIV,
     S128 "mon=c:connect-unix:/a "},
    {"qtest",
     Q "-qtest unix:/q -qtest-log /dev/null -chardev socket,path=/m,id=char0 -mon "
       "chardev=char0,mode=control",
     Q "-qtest unix:/q -qtest-log /dev/null " MON(
         "char0", 0, "off") " -mon chardev=char0,mode=control" PC128 PRIV,
     S128 "mon=char0:connect-unix:/m "},
    {"vhost-user-blk",
     Q "-chardev socket,id=v,path=/b,reconnect=2 -device vhost-user-blk-pci,chardev=v,num-queues=1 "
       "-qmp unix:/a,server=on,wait=off",
     Q MON("v", 1, "off") " -device vhost-user-blk-pci,chardev=v,num-queues=1 "
                          "-qmp " DEV(0, "off") PC128 PRIV,
     S128 "mon=compat_monitor0:listen-unix:/a mon=v:connect-unix:/b:backend:re2 "},
    {"vhost-user-server",
     Q "-chardev socket,id=v,path=/b,server=on -device "
       "'{\"driver\":\"vhost-user-blk-pci\",\"chardev\":\"v\"}' -monitor none",
     Q MON(
         "v", 0,
         "off") " -device "
                "'{\"driver\":\"vhost-user-blk-pci\",\"chardev\":\"v\"}' -monitor none" PC128 PRIV,
     S128 "mon=v:listen-unix:/b:backend "},
    {"vhost-user-net",
     Q "-chardev socket,id=v,path=/b -netdev vhost-user,id=n,chardev=v,queues=2 -monitor none",
     Q NET("v", 0) " -netdev vhost-user,id=n,chardev=v,queues=2 -monitor none" PC128 PRIV,
     S128 "mon=v:connect-unix:/b:network "},
    {"vhost-user-net-json",
     Q "-chardev socket,id=v,path=/b,server=on -netdev "
       "'{\"type\":\"vhost-user\",\"chardev\":\"v\",\"id\":\"n\"}' -monitor none",
     Q NET("v", 0) " -netdev '{\"type\":\"vhost-user\",\"chardev\":\"v\",\"id\":\"n\"}' "
                   "-monitor none" PC128 PRIV,
     S128 "mon=v:listen-unix:/b:network "},
    /* QEMU's default HMP monitor outlives the private one. */
    {"default-hmp", Q "-m 128", Q "-m 128" PC128 HMP PRIV, S128},
    {"nographic", Q "-nographic", Q "-nographic" PC128 " -serial mon:stdio" PRIV, S128},
    {"nographic-serial", Q "-nographic -serial file:/x",
     Q "-nographic -serial file:/x" PC128 " -monitor stdio" PRIV, S128},
    {"nographic-isa-serial", Q "-nographic -device isa-serial,chardev=c -chardev null,id=c",
     Q "-nographic -device isa-serial,chardev=c -chardev null,id=c" PC128 " -monitor stdio" PRIV,
     S128},
    {"serial-mon-stdio", Q "-serial mon:stdio", Q "-serial mon:stdio" PC128 PRIV, S128},
    {"object-hmp", Q "-chardev null,id=c -object monitor-hmp,id=m,chardev=c",
     Q "-chardev null,id=c -object monitor-hmp,id=m,chardev=c" PC128 PRIV, S128},
    {"config-hmp", Q "-readconfig /hmp.cfg", Q "-readconfig /hmp.cfg" PC128 HMP PRIV, S128},
    {"config-object-hmp", Q "-readconfig /hmp-object.cfg",
     Q "-readconfig /hmp-object.cfg" PC128 PRIV, S128},
    {NULL},
};

/* Monitors that QEMU keeps. */
const ArgvCase argv_left_monitor_cases[] = {
    {"readline", Q "-chardev socket,id=c,path=/a,server=on -mon c,mode=readline", NULL, S128},
    {"no-mode", Q "-chardev socket,id=c,path=/a,server=on -mon c", NULL, S128},
    {"hmp", Q "-monitor unix:/a,server=on,wait=off", NULL, S128},
    {"object-readline", Q "-chardev socket,id=c,path=/a -object monitor-hmp,id=m,chardev=c", NULL,
     S128},
    {"vhost-user-net-fd", Q "-chardev socket,id=v,fd=5 -netdev vhost-user,id=n,chardev=v", NULL,
     S128, NULL, "the back-end of chardev v (no path=)"},
    {"net-chardev", Q "-chardev socket,id=v,path=/b -netdev stream,id=n,chardev=v", NULL, S128},
    {"vhost-user-tcp", Q "-chardev socket,id=v,host=h,port=1 -device vhost-user-blk-pci,chardev=v",
     NULL, S128, NULL, "the back-end of chardev v (no path=)"},
    {"telnet", Q "-qmp telnet:localhost:4444,server=on,wait=off", NULL, S128, NULL,
     "compat_monitor0"},
    {"websocket",
     Q "-chardev socket,id=c,host=h,port=1,websocket=on,server=on -mon "
       "c,mode=control",
     NULL, S128, NULL, "websocket"},
    {"tls", Q "-chardev socket,id=c,host=h,port=1,tls-creds=t,server=on -mon c,mode=control", NULL,
     S128, NULL, "tls-creds"},
    {"mux", Q "-chardev socket,id=c,path=/a,mux=on -mon c,mode=control", NULL, S128, NULL, "mux"},
    {"pty", Q "-qmp pty", NULL, S128, NULL, "pty"},
    {"pipe", Q "-chardev pipe,id=c,path=/a -mon c,mode=control", NULL, S128, NULL, "pipe"},
    {"vc", Q "-qmp vc", NULL, S128, NULL, "vc"},
    {"port-0", Q "-qmp tcp:localhost:0,server=on,wait=off", NULL, S128, NULL, "port=0"},
    {"unknown-option", Q "-chardev socket,id=c,path=/a,new=on -mon c,mode=control", NULL, S128,
     NULL, "new"},
    {"tight", Q "-chardev socket,id=c,path=/a,abstract=on,tight=off -mon c,mode=control", NULL,
     S128, NULL, "tight=off"},
    {"serial-too", Q "-chardev socket,id=c,path=/a -serial chardev:c -mon c,mode=control", NULL,
     S128, NULL, "another user"},
    {"device-too",
     Q "-chardev socket,id=c,path=/a -mon c,mode=control -device "
       "'{\"driver\":\"isa-serial\",\"chardev\":\"c\"}'",
     NULL, S128, NULL, "another user"},
    {"two-mons", Q "-chardev socket,id=c,path=/a -mon c,mode=readline -mon c,mode=control", NULL,
     S128, NULL, "another user"},
    {"no-chardev", Q "-mon c,mode=control", NULL, S128, NULL, "command line"},
    {"object-telnet",
     Q "-chardev socket,id=c,host=h,port=1,telnet=on,server=on -object monitor-qmp,id=m,chardev=c",
     NULL, S128, NULL, "telnet"},
    {"object-close-action",
     Q "-chardev socket,id=c,path=/a -object monitor-qmp,id=m,chardev=c,close-action=delete", NULL,
     S128, NULL, "close-action"},
    {"object-too",
     Q "-chardev socket,id=c,path=/a -mon c,mode=control -object "
       "'{\"qom-type\":\"monitor-hmp\",\"id\":\"m\",\"chardev\":\"c\"}'",
     NULL, S128, NULL, "another user"},
    {"set", Q "-chardev socket,id=c,path=/a -set chardev.c.path=/b -mon c,mode=control", NULL, S128,
     NULL, "c"},
    /* QEMU refuses these by itself. */
    {"stdio-twice", Q "-serial stdio -qmp stdio", NULL, S128},
    {"stdio-nographic", Q "-nographic -qmp stdio", NULL, S128},
    {"stdio-daemonize", Q "-daemonize -qmp stdio", NULL, S128 "daemonize "},
    {"fd-not-listening", Q "-chardev socket,id=c,fd=9,server=on -mon c,mode=control", NULL, S128},
    {"wait-client", Q "-chardev socket,id=c,path=/a,wait=off -mon c,mode=control", NULL, S128},
    {"path-and-fd", Q "-chardev socket,id=c,path=/a,fd=31,server=on -mon c,mode=control", NULL,
     S128},
    {"bad-boolean", Q "-qmp unix:/a,server=maybe", NULL, S128},
    {"bracket", Q "-qmp tcp:[::1]:4444,server=on", NULL, S128},
    {"no-port", Q "-qmp tcp:localhost", NULL, S128},
    {NULL},
};

/* A socket can have it, but not below a folder. */
#define LONG_NAME                                                                                  \
    "a123456789b123456789c123456789d123456789e123456789"                                           \
    "f123456789g123456789h123456789i123456789j123456789k12345"

const ArgvCase argv_whole_cases[] = {
    {"incoming-defer", Q ND "-incoming defer", Q ND "-incoming defer" PC128 PRIV,
     S128 "incoming=defer "},
    {"incoming-tcp",
     Q ND "-mem-prealloc -incoming tcp:0:44 -object memory-backend-ram,id=d,"
          "size=64M,prealloc=on,prealloc-threads=2",
     Q ND "-incoming defer -object "
          "memory-backend-file,id=d,size=64M,prealloc-threads=2," FD(
              0) ",x-use-canonical-path-for-ramblock-id=off,align=2097152" RAM("pc.ram", 134217728,
                                                                               1) PRIV,
     "ram=d:67108864:4096 ram=pc.ram:134217728:4096 takes=tcp:0:44 "},
    {"incoming-unix", Q ND "-incoming unix:/s", Q ND "-incoming defer" PC128 PRIV,
     S128 "takes=unix:/s "},
    {"incoming-folder", Q ND "-incoming unix:s", Q ND "-incoming defer" PC128 PRIV,
     S128 "takes=unix:s "},
    {"incoming-daemonize", Q ND "-daemonize -incoming unix:s",
     Q ND "-daemonize -incoming defer" PC128 PRIV, S128 "takes=unix:/here/s daemonize "},
    {"incoming-daemonize-long", Q ND "-daemonize -incoming unix:" LONG_NAME,
     Q ND "-daemonize -incoming unix:" LONG_NAME PC128 PRIV,
     S128 "incoming=unix:" LONG_NAME " daemonize "},
    {"incoming-last", Q ND "-incoming unix:/s -incoming exec:cat",
     Q ND "-incoming unix:/s -incoming exec:cat" PC128 PRIV, S128 "incoming=exec:cat "},
    {"incoming-fd", Q ND "-incoming fd:7", Q ND "-incoming defer" PC128 PRIV, S128 "takes=fd:7 "},
    {"incoming-rdma", Q ND "-incoming rdma:h:1", Q ND "-incoming rdma:h:1" PC128 PRIV,
     S128 "incoming=rdma:h:1 "},
    {"incoming-channel",
     Q ND "-incoming main,addr.transport=socket,addr.type=inet,addr.host=0,"
          "addr.port=44",
     Q ND "-incoming main,addr.transport=socket,addr.type=inet,addr.host=0,"
          "addr.port=44" PC128 PRIV,
     S128 "incoming=main,addr.transport=socket,addr.type=inet,"
          "addr.host=0,addr.port=44 "},
    {"identity",
     Q ND "-S -daemonize -runas nobody -name guest=vm1,debug-threads=on -pidfile /p "
          "-sandbox on",
     Q ND "-S -daemonize -runas nobody -name guest=vm1,debug-threads=on -pidfile "
          "/p -sandbox on" PC128 PRIV,
     S128 "name=vm1 runas=nobody S daemonize "},
    {"run-with", Q ND "-run-with user=nobody,chroot=/c -name vm2",
     Q ND "-run-with user=nobody,chroot=/c -name vm2" PC128 PRIV, S128 "name=vm2 runas=nobody "},
    {"option-in-value", Q ND "-kernel k -append '-S -m 64 @FF_RAM0@' -append -S -initrd -version",
     Q ND "-kernel k -append '-S -m 64 @FF_RAM0@' -append -S -initrd -version" PC128 PRIV, S128},
    {"help-in-value", Q ND "-hda help -kernel help -name guest=help -pidfile ?",
     Q ND "-hda help -kernel help -name guest=help -pidfile ?" PC128 PRIV, S128 "name=help "},
    {"disk-and-unknown", Q ND "disk.img -new-option on --newer -m 64",
     Q ND "disk.img -new-option on --newer -m 64" PC(67108864) PRIV, "ram=pc.ram:67108864:4096 "},
    {"readme",
     Q "-enable-kvm -m 2048 -smp 2 -drive file=disk.qcow2,if=virtio -nic user,model="
       "virtio-net-pci -vga virtio",
     Q "-enable-kvm -m 2048 -smp 2 -drive file=disk.qcow2,if=virtio"
       " -nic user,model=virtio-net-pci -vga virtio" PC(2147483648) HMP PRIV,
     "ram=pc.ram:2147483648:4096 "},
    {"migration-test-7.2",
     Q "-qtest unix:/tmp/qtest-1.sock -qtest-log /dev/null -chardev socket,path=/tmp/qtest-1.qmp,"
       "id=char0 -mon chardev=char0,mode=control -display none -accel kvm -accel tcg -name target,"
       "debug-threads=on -m 150M -serial file:/tmp/D/dest_serial -incoming unix:/tmp/D/migsocket "
       "-drive file=/tmp/D/bootsect,format=raw -accel qtest",
     Q "-qtest unix:/tmp/qtest-1.sock -qtest-log /dev/null " MON(
         "char0", 0,
         "off") " -mon chardev=char0,mode=control -display none -accel kvm -accel tcg -name target,"
                "debug-threads=on -m 150M -serial file:/tmp/D/dest_serial -incoming defer "
                "-drive file=/tmp/D/bootsect,format=raw -accel qtest" PC(157286400) PRIV,
     "ram=pc.ram:157286400:4096 mon=char0:connect-unix:/tmp/qtest-1.qmp "
     "takes=unix:/tmp/D/migsocket name=target "},
    {"migration-test-10.0",
     Q "-qtest unix:/tmp/qtest-1.sock -qtest-log /dev/null -chardev socket,path=/tmp/qtest-1.qmp,"
       "id=char0 -mon chardev=char0,mode=control -display none -audio none -accel kvm -accel tcg "
       "-machine pc-q35-10.0, -name source,debug-threads=on -m 150M -serial file:/tmp/D/src_serial "
       "-drive if=none,id=d0,file=/tmp/D/bootsect,format=raw -device ide-hd,drive=d0,secs=1,cyls=1,"
       "heads=1 -accel qtest",
     Q "-qtest unix:/tmp/qtest-1.sock -qtest-log /dev/null " MON(
         "char0", 0,
         "off") " -mon chardev=char0,mode=control -display none -audio none -accel kvm -accel tcg "
                "-machine pc-q35-10.0, -name source,debug-threads=on -m 150M -serial "
                "file:/tmp/D/src_serial "
                "-drive if=none,id=d0,file=/tmp/D/bootsect,format=raw -device "
                "ide-hd,drive=d0,secs=1,cyls=1,"
                "heads=1 -accel qtest" PC(157286400) PRIV,
     "ram=pc.ram:157286400:4096 mon=char0:connect-unix:/tmp/qtest-1.qmp name=source "},
    {"libvirt-9.0",
     "/usr/lib/farfault/qemu-system-x86_64 -name guest=vm1,debug-threads=on -S -object "
     "'{\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":"
     "\"/var/lib/libvirt/qemu/domain-1-vm1/master-key.aes\"}' -machine pc-q35-7.2,usb=off,"
     "dump-guest-core=off,memory-backend=pc.ram -accel tcg -cpu qemu64 -m 512 -object "
     "'{\"qom-type\":\"memory-backend-ram\",\"id\":\"pc.ram\",\"size\":536870912}' -overcommit "
     "mem-lock=off -smp 1,sockets=1,cores=1,threads=1 -uuid 11111111-2222-4333-8444-555555555555 "
     "-display none -no-user-config -nodefaults -chardev socket,id=charmonitor,fd=31,server=on,"
     "wait=off -mon chardev=charmonitor,id=monitor,mode=control -rtc base=utc -no-shutdown -boot "
     "strict=on -kernel /k -initrd /i -append 'console=ttyS0 pti=on' -device "
     "'{\"driver\":\"pcie-root-port\",\"port\":8,\"chassis\":1,\"id\":\"pci.1\",\"bus\":"
     "\"pcie.0\",\"multifunction\":true,\"addr\":\"0x1\"}' -add-fd set=0,fd=29,opaque="
     "serial0-source -chardev file,id=charserial0,path=/dev/fdset/0,append=on -device "
     "'{\"driver\":\"isa-serial\",\"chardev\":\"charserial0\",\"id\":\"serial0\",\"index\":0}' "
     "-audiodev '{\"id\":\"audio1\",\"driver\":\"none\"}' -incoming defer -sandbox on,obsolete="
     "deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg timestamp=on",
     "/usr/lib/farfault/qemu-system-x86_64 -name guest=vm1,debug-threads=on -S -object "
     "'{\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":"
     "\"/var/lib/libvirt/qemu/domain-1-vm1/master-key.aes\"}' -machine pc-q35-7.2,usb=off,"
     "dump-guest-core=off,memory-backend=pc.ram -accel tcg -cpu qemu64 -m 512 -object "
     "'{\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"size\":536870912,\"mem-path\":"
     "\"/proc/self/fd/"
     "@FF_RAM0@\",\"share\":true,\"x-use-canonical-path-for-ramblock-id\":false,\"align\":2097152}'"
     " "
     "-overcommit "
     "mem-lock=off -smp 1,sockets=1,cores=1,threads=1 -uuid 11111111-2222-4333-8444-555555555555 "
     "-display none -no-user-config -nodefaults " MON(
         "charmonitor", 0,
         "off") " -mon chardev=charmonitor,id=monitor,mode=control -rtc base=utc -no-shutdown "
                "-boot "
                "strict=on -kernel /k -initrd /i -append 'console=ttyS0 pti=on' -device "
                "'{\"driver\":\"pcie-root-port\",\"port\":8,\"chassis\":1,\"id\":\"pci.1\",\"bus\":"
                "\"pcie.0\",\"multifunction\":true,\"addr\":\"0x1\"}' -add-fd set=0,fd=29,opaque="
                "serial0-source -chardev file,id=charserial0,path=/dev/fdset/0,append=on -device "
                "'{\"driver\":\"isa-serial\",\"chardev\":\"charserial0\",\"id\":\"serial0\","
                "\"index\":0}' "
                "-audiodev '{\"id\":\"audio1\",\"driver\":\"none\"}' -incoming defer -sandbox "
                "on,obsolete="
                "deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg "
                "timestamp=on" DOOR(9) PRIV,
     "ram=pc.ram:536870912:4096 mon=charmonitor:listen-fd:31 incoming=defer name=vm1 S "},
    {NULL},
};
